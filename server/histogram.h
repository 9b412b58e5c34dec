// A histogram that many threads feed without waiting for each other.

#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace infercache::server {

// Buckets whose upper bounds are powers of 4 from `first_bound_seconds`, and one beyond.
// Thread-safe; a snapshot taken while others observe is nearly consistent.
class Histogram {
 public:
  static constexpr size_t kBounds = 12;

  struct Snapshot {
    std::array<uint64_t, kBounds + 1> counts{};  // of each bucket alone
    double sum_seconds = 0;
    uint64_t count() const {
      uint64_t total = 0;
      for (uint64_t c : counts) total += c;
      return total;
    }
  };

  explicit Histogram(double first_bound_seconds = 10e-6)
      : first_bound_seconds_(first_bound_seconds) {}

  double bound(size_t i) const {
    return first_bound_seconds_ * static_cast<double>(uint64_t{1} << (2 * i));
  }

  void Observe(double seconds) {
    size_t i = 0;
    while (i < kBounds && seconds > bound(i)) ++i;
    counts_[i].fetch_add(1, std::memory_order_relaxed);
    if (seconds > 0) {
      sum_us_.fetch_add(static_cast<uint64_t>(seconds * 1e6), std::memory_order_relaxed);
    }
  }

  Snapshot Read() const {
    Snapshot snapshot;
    for (size_t i = 0; i <= kBounds; ++i) {
      snapshot.counts[i] = counts_[i].load(std::memory_order_relaxed);
    }
    snapshot.sum_seconds = static_cast<double>(sum_us_.load(std::memory_order_relaxed)) / 1e6;
    return snapshot;
  }

 private:
  const double first_bound_seconds_;
  std::array<std::atomic<uint64_t>, kBounds + 1> counts_{};
  std::atomic<uint64_t> sum_us_{0};
};

}  // namespace infercache::server
