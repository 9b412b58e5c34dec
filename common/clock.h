// Time as the store sees it: milliseconds that only move forward.

#pragma once

#include <atomic>
#include <cstdint>

namespace infercache {

// Thread-safe. The epoch is unspecified; the value is positive and never decreases.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t NowMs() const = 0;
};

// CLOCK_MONOTONIC_COARSE: a few nanoseconds a call, a few milliseconds of resolution, and the same
// value in every process of the host, so that readers in shared memory agree on expiry.
class MonotonicClock final : public Clock {
 public:
  uint64_t NowMs() const override;
};

// Moves only when told to; for tests and for replaying a trace under its own time.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(uint64_t start_ms = 1'000'000) : now_ms_(start_ms) {}
  uint64_t NowMs() const override { return now_ms_.load(std::memory_order_relaxed); }
  void AdvanceMs(uint64_t ms) { now_ms_.fetch_add(ms, std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> now_ms_;
};

}  // namespace infercache
