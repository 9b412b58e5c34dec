#include "client/src/value_reader.h"

#include <algorithm>
#include <cstring>

namespace infercache {

uint64_t ValueBytes(const PutItem& item) { return ValueReader(item.value).remaining(); }

uint64_t ValueReader::remaining() const {
  uint64_t bytes = 0;
  for (const auto& piece : value_) bytes += piece.size();
  return bytes - offset_;
}

void ValueReader::Read(std::span<std::byte> destination) {
  while (!destination.empty()) {
    const std::span<const std::byte> piece = value_[0].subspan(offset_);
    const size_t bytes = std::min(piece.size(), destination.size());
    if (bytes > 0) std::memcpy(destination.data(), piece.data(), bytes);
    destination = destination.subspan(bytes);
    offset_ += bytes;
    if (offset_ == value_[0].size()) {
      value_ = value_.subspan(1);
      offset_ = 0;
    }
  }
}

}  // namespace infercache
