#include "common/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace infercache {

uint32_t Crc32c(std::span<const std::byte> bytes) {
  // ISA-L takes an int length and neither inverts its start value nor its result.
  constexpr size_t kPiece = size_t{1} << 30;
  uint32_t crc = 0xffffffff;
  while (!bytes.empty()) {
    const std::span<const std::byte> piece = bytes.first(std::min(bytes.size(), kPiece));
    // It does not write through the pointer; its prototype lacks the const.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(piece.data()));
    crc = crc32_iscsi(data, static_cast<int>(piece.size()), crc);
    bytes = bytes.subspan(piece.size());
  }
  return ~crc;
}

}  // namespace infercache
