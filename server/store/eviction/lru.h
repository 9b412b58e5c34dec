// Least recently used: first in, first out, but that a use is an arrival again. With a request's
// blocks told from the last to the first, and new blocks put behind their chain, the oldest is
// always a leaf of the tree of prefixes.

#pragma once

#include "server/store/eviction/fifo.h"

namespace infercache::store {

class LruPolicy final : public FifoPolicy {
 public:
  using FifoPolicy::FifoPolicy;

  void Touch(uint32_t record, const Use&) override { list_.MoveToNewest(record); }
};

}  // namespace infercache::store
