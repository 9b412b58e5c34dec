#include "server/store/eviction/lru_rival.h"

#include <cmath>

namespace infercache::store {
namespace {

// Leads by chance are not leads: how many standard deviations of the number of hits it takes.
constexpr double kDeviations = 1.5;

}  // namespace

void LruRival::EndLook(double capacity, double seconds) {
  double blocks = 0;
  int bin = 0;
  while (bin + 1 < kBins && blocks + blocks_by_age_[bin] < capacity)
    blocks += blocks_by_age_[bin++];
  const double part = blocks_by_age_[bin] > 0 ? (capacity - blocks) / blocks_by_age_[bin] : 0;
  const auto low = static_cast<double>(EdgeMs(bin)), high = static_cast<double>(EdgeMs(bin + 1));
  const bool first = horizon_ms_ == 0;
  horizon_ms_ = static_cast<uint64_t>(low + std::clamp(part, 0.0, 1.0) * (high - low));
  if (first) {
    hits_ = rival_hits_ = 0;
    return;
  }
  if (probation_seconds_ > 0) {
    probation_seconds_ -= seconds;
    // A new chance. Under LRU the real hits are the rival's and say nothing about the index.
    if (probation_seconds_ <= 0) hits_ = rival_hits_ = 0;
    return;
  }
  if (rival_hits_ - hits_ > kDeviations * std::sqrt(rival_hits_ + hits_)) {
    probation_seconds_ = next_probation_seconds_;
    next_probation_seconds_ = std::min(2 * next_probation_seconds_, kLongestProbationSeconds);
  } else if (hits_ - rival_hits_ > kDeviations * std::sqrt(rival_hits_ + hits_)) {
    next_probation_seconds_ = kFirstProbationSeconds;
  }
  const double left = std::exp2(-seconds / kHalfLifeSeconds);
  hits_ *= left;
  rival_hits_ *= left;
}

}  // namespace infercache::store
