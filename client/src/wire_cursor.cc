#include "client/src/wire_cursor.h"

#include <algorithm>
#include <cstring>

#include "common/status_macros.h"

namespace infercache {
namespace {

constexpr int kMaxVarintBytes = 10;
constexpr uint64_t kMaxFieldNumber = (uint64_t{1} << 29) - 1;

absl::Status Truncated() { return absl::InvalidArgumentError("message is truncated"); }

}  // namespace

WireCursor::WireCursor(std::span<const Piece> pieces) : pieces_(pieces) {
  for (const Piece& piece : pieces) remaining_ += piece.size();
}

void WireCursor::Advance(uint64_t bytes) {
  remaining_ -= bytes;
  while (bytes > 0) {
    const uint64_t here = std::min<uint64_t>(bytes, pieces_[0].size() - offset_);
    offset_ += here;
    bytes -= here;
    if (offset_ == pieces_[0].size()) {
      pieces_ = pieces_.subspan(1);
      offset_ = 0;
    }
  }
}

absl::StatusOr<uint64_t> WireCursor::ReadVarint() {
  uint64_t value = 0;
  for (int i = 0; i < kMaxVarintBytes; ++i) {
    ASSIGN_OR_RETURN(const uint64_t byte, ReadFixed(1));
    // The tenth byte has room for one bit only.
    if (i == kMaxVarintBytes - 1 && byte > 1) break;
    value |= (byte & 0x7f) << (7 * i);
    if ((byte & 0x80) == 0) return value;
  }
  return absl::InvalidArgumentError("message has a varint of more than 64 bits");
}

absl::StatusOr<uint64_t> WireCursor::ReadFixed(size_t bytes) {
  if (bytes > remaining_) return Truncated();
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) {
    while (pieces_[0].size() == offset_) {  // an empty piece
      pieces_ = pieces_.subspan(1);
      offset_ = 0;
    }
    value |= std::to_integer<uint64_t>(pieces_[0][offset_]) << (8 * i);
    Advance(1);
  }
  return value;
}

absl::StatusOr<std::optional<WireField>> WireCursor::Next() {
  if (remaining_ == 0) return std::optional<WireField>();
  ASSIGN_OR_RETURN(const uint64_t tag, ReadVarint());
  const uint64_t number = tag >> 3;
  if (number == 0 || number > kMaxFieldNumber) {
    return absl::InvalidArgumentError("message has a field number out of range");
  }
  WireField field;
  field.number = static_cast<uint32_t>(number);
  switch (tag & 7) {
    case 0: {
      ASSIGN_OR_RETURN(field.value, ReadVarint());
      break;
    }
    case 1: {
      ASSIGN_OR_RETURN(field.value, ReadFixed(8));
      break;
    }
    case 2: {
      ASSIGN_OR_RETURN(const uint64_t length, ReadVarint());
      if (length > remaining_) return Truncated();
      field.type = WireField::Type::kBytes;
      field.bytes = *this;
      field.bytes.remaining_ = length;
      Advance(length);
      break;
    }
    case 5: {
      ASSIGN_OR_RETURN(field.value, ReadFixed(4));
      break;
    }
    default:
      return absl::InvalidArgumentError("message has a field of an unknown wire type");
  }
  return std::optional<WireField>(field);
}

void WireCursor::CopyTo(std::span<std::byte> destination) const {
  size_t offset = offset_;
  for (const Piece& piece : pieces_) {
    if (destination.empty()) return;
    const size_t bytes = std::min(destination.size(), piece.size() - offset);
    if (bytes > 0) std::memcpy(destination.data(), piece.data() + offset, bytes);
    destination = destination.subspan(bytes);
    offset = 0;
  }
}

std::string WireCursor::ToString() const {
  std::string result(remaining_, '\0');
  CopyTo(std::as_writable_bytes(std::span(result)));
  return result;
}

}  // namespace infercache
