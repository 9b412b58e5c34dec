// How a ratio is taken: the sides run one after the other, round after round, so that whatever else
// the machine does meets all of them; each round has one number per side, a ratio is the median of
// the rounds' ratios and the spread is their range.

#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/compare/row.h"

namespace infercache::bench {

using Nanoseconds = std::chrono::nanoseconds;

struct Plan {
  int rounds = 5;
  std::chrono::milliseconds round{2000};
  // Too short for a verdict: only shows that everything works.
  bool quick = false;
};

// Something that is measured: one thread calls `once` over and over.
struct Side {
  std::string name;
  // Returns the time that counts, which may be less than it took.
  std::function<Nanoseconds()> once;
  // Around each round, outside of the measured time; may be empty.
  std::function<void()> before_round = {};
  std::function<void()> after_round = {};
};

// A Side::once that counts all of `work`'s time.
template <typename Work>
std::function<Nanoseconds()> Timed(Work work) {
  return [work]() mutable {
    const auto start = std::chrono::steady_clock::now();
    work();
    return Nanoseconds(std::chrono::steady_clock::now() - start);
  };
}

enum class Statistic { kMean, kP99 };

enum class Condition { kIdle, kBusy };

// Microseconds per call, for each side in each round.
class Measured {
 public:
  // Measures in both conditions, idle and with busy CPUs.
  static Measured Take(const std::vector<Side>& sides, Statistic statistic, const Plan& plan);
  // Only with idle CPUs.
  static Measured TakeIdle(const std::vector<Side>& sides, Statistic statistic, const Plan& plan);

  // Side 0 beside the best of `peers` (indices of sides): the one number of them all, idle or busy,
  // that is lowest decides which peer and which condition count. `divisor` turns a call's time into
  // that of one of its parts.
  Row Compare(const std::string& name, const std::vector<size_t>& peers,
              const std::optional<Target>& target, double divisor = 1) const;

 private:
  struct Series {
    Condition condition;
    std::vector<std::vector<double>> times;  // [side][round]
  };

  Measured(const std::vector<Side>& sides, const Plan& plan);
  void Run(Condition condition, const std::vector<Side>& sides, Statistic statistic);
  std::string Describe(const Series& measured, size_t peer, double divisor) const;

  const Plan plan_;
  std::vector<std::string> names_;
  std::vector<Series> series_;
};

}  // namespace infercache::bench
