// One line of the comparison's table, and how it is printed: aligned text, or one JSON object per
// line with the same fields.

#pragma once

#include <optional>
#include <string>
#include <utility>

namespace infercache::bench {

// What a ratio must be. A ratio that must be at least something says how many times better ours is;
// one that must be at most something, how many times the peer's cost ours has.
struct Target {
  enum class Bound { kAtLeast, kAtMost };
  Bound bound = Bound::kAtLeast;
  double value = 1;

  static Target AtLeast(double value) { return {Bound::kAtLeast, value}; }
  static Target AtMost(double value) { return {Bound::kAtMost, value}; }
  bool Holds(double ratio) const {
    return bound == Bound::kAtLeast ? ratio >= value : ratio <= value;
  }
  std::string ToString() const;
};

struct Row {
  std::string name;
  double ours = 0;
  std::optional<double> peer;
  std::string unit;
  std::optional<double> ratio;
  std::optional<std::pair<double, double>> spread;  // lowest and highest ratio of a round
  std::string target;                               // empty = only reported
  std::optional<bool> ok;                           // nullopt = no verdict
  std::string note;                                 // which peer, which condition, what else
};

enum class Output { kText, kJson };

// Prints to standard output at once. Not thread-safe.
class RowPrinter {
 public:
  explicit RowPrinter(Output output) : output_(output) {}

  // The names of the columns; nothing for JSON.
  void PrintHeader() const;
  void Print(const Row& row);
  // Whether some row missed its target.
  bool missed() const { return missed_; }

 private:
  const Output output_;
  bool missed_ = false;
};

}  // namespace infercache::bench
