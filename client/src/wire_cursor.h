// Walks the fields of one protobuf message that lies in any number of pieces of memory, without
// copying it: what a large value needs to get from the network's buffers to its destination in one
// copy. Treats the bytes as hostile: every length is checked, nothing is allocated by what they
// say.
//
// Value type; cheap to copy; not thread-safe. Borrows the pieces, which outlive it and every cursor
// it handed out.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace infercache {

struct WireField;

class WireCursor {
 public:
  using Piece = std::span<const std::byte>;

  WireCursor() = default;
  explicit WireCursor(std::span<const Piece> pieces);

  // Bytes of this message that were not walked yet.
  uint64_t remaining() const { return remaining_; }

  // The next field, or nullopt at the message's end. INVALID_ARGUMENT if the bytes are no message:
  // truncated, an overlong varint, field number 0, a group. The cursor is of no use after an error.
  absl::StatusOr<std::optional<WireField>> Next();

  // Copies what remains. REQUIRES: destination.size() == remaining().
  void CopyTo(std::span<std::byte> destination) const;
  std::string ToString() const;

 private:
  absl::StatusOr<uint64_t> ReadVarint();
  absl::StatusOr<uint64_t> ReadFixed(size_t bytes);
  // REQUIRES: bytes <= remaining_.
  void Advance(uint64_t bytes);

  std::span<const Piece> pieces_;  // the first one is being read
  size_t offset_ = 0;              // in pieces_[0]
  uint64_t remaining_ = 0;
};

struct WireField {
  enum class Type { kNumber, kBytes };

  uint32_t number = 0;
  Type type = Type::kNumber;
  uint64_t value = 0;  // kNumber: a varint, or a fixed32 or fixed64 as it is
  WireCursor bytes;    // kBytes: a string or an embedded message
};

}  // namespace infercache
