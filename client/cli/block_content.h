// The bytes of a replayed block: they follow from its id alone, so that whoever reads one can tell
// whether it is that block, complete and unharmed, without having kept a copy.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace infercache::cli {

void FillBlock(uint64_t id, std::span<std::byte> bytes);

// How many bytes differ from the first bytes.size() of block `id`.
uint64_t CountWrongBytes(uint64_t id, std::span<const std::byte> bytes);

}  // namespace infercache::cli
