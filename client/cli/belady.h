// The most hits that any policy could have had on a trace: Belady's optimum, which knows the
// future.
//
// Exact for prefix hits where equal ids mean equal prefixes: a request that holds a block holds its
// ancestors, so a parent is used again no later than its children. Evicting whom is used last, of
// equals the deepest, then keeps the cache closed under prefixes, and no policy has more hits of
// any kind. It may decline to store a block.

#pragma once

#include <cstdint>
#include <span>

#include "client/cli/trace.h"

namespace infercache::cli {

struct OptimalHits {
  uint64_t prefix_blocks = 0;   // present before the first missing one of their request
  uint64_t present_blocks = 0;  // present anywhere in it
};

// With room for `capacity` blocks, empty at first.
OptimalHits BeladyHits(std::span<const TraceRequest> requests, uint64_t capacity);

}  // namespace infercache::cli
