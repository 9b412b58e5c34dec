#include "client/cli/latency.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace infercache::cli {

void LatencySamples::Merge(const LatencySamples& other) {
  samples_.insert(samples_.end(), other.samples_.begin(), other.samples_.end());
}

double LatencySamples::PercentileUs(double share) {
  if (samples_.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(samples_.size()));
  const size_t index = std::clamp<size_t>(static_cast<size_t>(rank), 1, samples_.size()) - 1;
  const auto nth = samples_.begin() + static_cast<std::ptrdiff_t>(index);
  std::nth_element(samples_.begin(), nth, samples_.end());
  return static_cast<double>(*nth) / 1000;
}

uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

}  // namespace infercache::cli
