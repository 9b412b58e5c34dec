// CRC32C (Castagnoli) as iSCSI, ext4 and gRPC's own tooling compute it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace infercache {

// Of "123456789": 0xe3069283.
uint32_t Crc32c(std::span<const std::byte> bytes);

}  // namespace infercache
