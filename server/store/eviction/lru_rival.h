// Whether plain LRU would do better than the learned index: an estimate of its hits beside the real
// ones. What the index gains where there is something to learn it may lose where there is not, in a
// cache too small for what it sees; then LRU takes over for a while.
//
// LRU of n blocks holds what was used within its horizon, the age to which the n latest used of all
// blocks, gone ones included, reach. A use of an age below it would be its hit.
//
// Not thread-safe.

#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace infercache::store {

class LruRival {
 public:
  // A block was used again, at an age since its last use; `hit`: it was there.
  void CountUse(uint64_t age_ms, bool hit) {
    hits_ += hit ? 1 : 0;
    rival_hits_ += age_ms < horizon_ms_ ? 1 : 0;
  }
  // The latest look at the ages of all blocks that are known.
  void BeginLook() { blocks_by_age_ = {}; }
  void See(uint64_t age_ms, double blocks) { blocks_by_age_[BinOf(age_ms)] += blocks; }
  // Sets the horizon of `capacity` blocks, and judges.
  void EndLook(double capacity, double seconds_since_last);

  // For now, order by the last use alone.
  bool leads() const { return probation_seconds_ > 0; }

 private:
  // The index is on probation for twice as long each time, until it has led.
  static constexpr double kFirstProbationSeconds = 300;
  static constexpr double kLongestProbationSeconds = 3600;
  static constexpr double kHalfLifeSeconds = 300;
  // Eight bins to an octave of milliseconds.
  static constexpr int kSteps = 8;
  static constexpr int kBins = 34 * kSteps;

  static int BinOf(uint64_t age_ms) {
    const uint64_t age = std::max<uint64_t>(age_ms, kSteps);
    const int octave = static_cast<int>(std::bit_width(age)) - 1;
    const auto step = static_cast<int>(age >> (octave - 3) & (kSteps - 1));
    return std::min((octave - 3) * kSteps + step, kBins - 1);
  }
  static uint64_t EdgeMs(int bin) {
    return static_cast<uint64_t>(kSteps + bin % kSteps) << (bin / kSteps);
  }

  std::array<double, kBins> blocks_by_age_ = {};
  uint64_t horizon_ms_ = 0;
  double hits_ = 0, rival_hits_ = 0;  // lately
  double probation_seconds_ = 0;      // left
  double next_probation_seconds_ = kFirstProbationSeconds;
};

}  // namespace infercache::store
