#include "client/src/value_reader.h"

#include <algorithm>
#include <cstring>

#include "common/stream_copy.h"

namespace infercache {

uint64_t ValueBytes(const PutItem& item) { return ValueReader(item.value).remaining(); }

uint64_t ValueReader::remaining() const {
  uint64_t bytes = 0;
  for (const auto& piece : value_) bytes += piece.size();
  return bytes - offset_;
}

void ValueReader::Read(std::span<std::byte> destination) {
  Read(destination, [](std::byte* to, std::span<const std::byte> from) {
    std::memcpy(to, from.data(), from.size());
  });
}

void ValueReader::ReadToArena(std::span<std::byte> destination) {
  if (destination.size() < kStreamFromBytes) return Read(destination);
  Read(destination, StreamCopy);
  EndStreaming();
}

template <typename Copy>
void ValueReader::Read(std::span<std::byte> destination, Copy copy) {
  while (!destination.empty()) {
    const std::span<const std::byte> piece = value_[0].subspan(offset_);
    const size_t bytes = std::min(piece.size(), destination.size());
    if (bytes > 0) copy(destination.data(), piece.first(bytes));
    destination = destination.subspan(bytes);
    offset_ += bytes;
    if (offset_ == value_[0].size()) {
      value_ = value_.subspan(1);
      offset_ = 0;
    }
  }
}

}  // namespace infercache
