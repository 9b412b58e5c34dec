// Copies past the CPU's caches, for values on their way into an arena.

#pragma once

#include <cstddef>
#include <span>

namespace infercache {

// Values from this size on are written past the caches. As a rule nobody reads them before many
// others are written, and a store that misses the cache reads its line first, only to overwrite it.
// glibc does this from a large part of the last level cache on; below, it uses `rep movsb`, which
// takes about twice the time for pieces of 8 to 16 KiB (AMD Zen 4).
inline constexpr size_t kStreamFromBytes = 64 << 10;

// What atomics publish afterwards does not order these bytes; EndStreaming in the same thread does.
// REQUIRES: room for all of `from`; no overlap.
void StreamCopy(std::byte* to, std::span<const std::byte> from);
void EndStreaming();

}  // namespace infercache
