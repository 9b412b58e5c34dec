#include "common/clock.h"

#include <ctime>

namespace infercache {

uint64_t MonotonicClock::NowMs() const {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace infercache
