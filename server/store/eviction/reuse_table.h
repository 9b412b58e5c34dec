// What the learned index has learned: for each class of blocks, at which age after their last use
// they come back, and what it is worth to keep one of that class and age.
//
// A block's life since its last use ends in one of three ways: it is used again (an event), it is
// lost from sight (a drop-out), or it is still waiting (the living). The hazard of an age bin is
// the share of those who reached it that came back in it: Kaplan and Meier's estimate, which the
// last two do not bias. Where a class has seen little, its prior speaks: for a base class the one
// with the next smaller number of uses, for a base class with a hint that base class. Old evidence
// fades with a half-life of 30 minutes.
//
// The index of (class, age bin) is that of Gittins: the most that P(reuse in (a, a']) / E[time held
// in (a, a']] can be for any a', so that a block is not given up just before it is due.
//
// Not thread-safe.

#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace infercache::store {

class ReuseTable {
 public:
  // Ages: below half a second, then each bin twice as long as the one before; the last has no end.
  static constexpr int kBins = 18;
  // Base classes: number of uses (1, 2, 3..6, 7 and more) x whether it ended its request.
  static constexpr int kBaseClasses = 8;
  static constexpr int kHints = 16;
  static constexpr int kClasses = kBaseClasses * kHints;
  static constexpr int kCells = kClasses * kBins;

  // A hint that comes up for the first time counts as 0, none, until the next lesson.
  int ClassOf(uint32_t uses, bool ends_request, uint8_t hint) {
    const int count = uses <= 1 ? 0 : uses == 2 ? 1 : uses <= 6 ? 2 : 3;
    const uint32_t bit = uint32_t{1} << (hint % kHints);
    hints_seen_ |= bit;
    const int known = (hints_known_ & bit) != 0 ? hint % kHints : 0;
    return known * kBaseClasses + count * 2 + (ends_request ? 1 : 0);
  }
  static bool EndsRequest(int reuse_class) { return reuse_class % 2 != 0; }
  static int WithoutEnd(int reuse_class) { return reuse_class & ~1; }
  static int BinOf(uint64_t age_ms) {
    return std::min(static_cast<int>(std::bit_width(age_ms / kFirstBinMs)), kBins - 1);
  }
  // Where a bin begins; of kBins: where the last one is taken to end.
  static uint64_t EdgeMs(int bin) { return bin == 0 ? 0 : kFirstBinMs << (bin - 1); }
  static int CellOf(int reuse_class, int bin) { return reuse_class * kBins + bin; }

  ReuseTable();

  void CountReuse(int reuse_class, uint64_t age_ms) {
    events_[CellOf(reuse_class, BinOf(age_ms))] += 1;
  }
  void CountDropOut(int reuse_class, uint64_t age_ms) {
    dropped_[CellOf(reuse_class, BinOf(age_ms))] += 1;
  }
  // Computes the index of every cell from what was counted and those who wait, by cell: a lesson.
  void Learn(const std::vector<double>& living, double seconds_since_last);
  bool taught() const { return taught_; }
  // Too little was seen to order anything by it.
  bool trained() const { return trained_; }

  // The cells of classes that there may be, the least worth keeping first.
  const std::vector<uint16_t>& order() const { return order_; }
  size_t memory_bytes() const {
    return sizeof *this + kCells * (3 * sizeof(double) + sizeof(uint16_t));
  }

 private:
  static constexpr uint64_t kFirstBinMs = 500;
  using Hazards = std::array<double, kBins>;

  bool Known(int reuse_class) const {
    return (hints_known_ >> (reuse_class / kBaseClasses) & 1) != 0;
  }

  // Of what `events` and `waiting` say, with `prior` where they say little.
  static Hazards HazardsOf(const double* events, const double* waiting, const Hazards* prior,
                           double prior_blocks);
  void SetIndex(int reuse_class, const Hazards& hazards);
  void Sort();
  void Fade(double seconds);

  std::vector<double> events_, dropped_;  // by cell
  std::vector<double> index_;
  std::vector<uint16_t> order_;
  uint32_t hints_known_ = 1, hints_seen_ = 1;  // a bit each
  bool taught_ = false, trained_ = false;
};

}  // namespace infercache::store
