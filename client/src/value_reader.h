// The values of puts, which callers give in pieces.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "infercache/client.h"

namespace infercache {

// Bytes of all pieces.
uint64_t ValueBytes(const PutItem& item);

// Reads a gathered value piece by piece, in order. Borrows the value.
class ValueReader {
 public:
  explicit ValueReader(std::span<const std::span<const std::byte>> value) : value_(value) {}

  uint64_t remaining() const;
  // Fills `destination` with what follows. REQUIRES: destination.size() <= remaining().
  void Read(std::span<std::byte> destination);
  // The same where `destination` is in an arena: large values go past the CPU's caches.
  void ReadToArena(std::span<std::byte> destination);

 private:
  template <typename Copy>
  void Read(std::span<std::byte> destination, Copy copy);

  std::span<const std::span<const std::byte>> value_;
  size_t offset_ = 0;  // in value_[0]
};

}  // namespace infercache
