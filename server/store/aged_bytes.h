// Bytes by how long they have been waiting to be free. A plain value.

#pragma once

#include <cstdint>

namespace infercache::store {

struct AgedBytes {
  uint64_t below_1s = 0, below_10s = 0, below_60s = 0, older = 0;

  void Add(uint64_t bytes, uint64_t age_ms) {
    (age_ms < 1'000    ? below_1s
     : age_ms < 10'000 ? below_10s
     : age_ms < 60'000 ? below_60s
                       : older) += bytes;
  }
  uint64_t total() const { return below_1s + below_10s + below_60s + older; }
};

}  // namespace infercache::store
