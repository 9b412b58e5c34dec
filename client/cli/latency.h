// Every latency of one kind of call, kept as it was measured: percentiles are exact. One thread at
// a time; threads that measure have one each and merge them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace infercache::cli {

class LatencySamples {
 public:
  void Add(uint64_t nanoseconds) { samples_.push_back(nanoseconds); }
  void Merge(const LatencySamples& other);
  size_t count() const { return samples_.size(); }

  // The smallest sample that at least `share` of all samples do not exceed, in microseconds; 0 if
  // there are none. REQUIRES: 0 < share <= 1 (1 = the maximum).
  double PercentileUs(double share);

 private:
  std::vector<uint64_t> samples_;  // PercentileUs reorders it
};

// Nanoseconds of a monotonic clock.
uint64_t NowNs();

}  // namespace infercache::cli
