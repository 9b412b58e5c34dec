// The learned policy's order: blocks lie in segments (one request x one class, where what has no
// chain or ends one may share one), from the one nearest to the root of its chain to the deepest;
// segments lie in cells (class x age bin), newest first. A segment moves from cell to cell as it
// ages, with all of its blocks, so that no block pays for growing older.
//
// Not thread-safe.

#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "server/store/eviction/pieces.h"
#include "server/store/eviction/policy.h"
#include "server/store/eviction/reuse_table.h"

namespace infercache::store {

class Segments {
 public:
  // When its blocks were used. The numbers count segments, but for those that lie behind others:
  // they tell apart what starts within one millisecond.
  struct Turn {
    uint64_t start_ms = 0;
    uint64_t number = 0;
    auto operator<=>(const Turn&) const = default;
  };
  struct Segment {
    uint32_t nearest = 0, deepest = 0;  // records
    uint32_t size = 0;
    uint32_t newer = 0, older = 0;    // segments of its cell; `newer` also links free ones
    uint32_t later = 0, earlier = 0;  // of all segments, by turn
    uint8_t reuse_class = 0;
    uint8_t bin = 0;
    bool kept = false;  // even when it is empty: more may come
    Turn turn;
  };

  explicit Segments(PolicyNode* nodes);

  const Segment& operator[](uint32_t segment) const { return segments_[segment]; }
  // Into the CPU's cache. `segment`: any number.
  void Prefetch(uint32_t segment) const {
    if (segment < segments_.size()) __builtin_prefetch(&segments_[segment], /*rw=*/1);
  }
  size_t records() const { return records_; }
  size_t records_in(int cell) const { return cells_[cell].records; }

  // A new one, the newest of those that started no later, in a turn of its own. Kept.
  uint32_t Open(int reuse_class, uint64_t start_ms);
  // The same for a request that goes on: in the turn of `anchor`, and the oldest there.
  uint32_t OpenBehind(int reuse_class, uint32_t anchor);
  // What Open returns, of a segment that is there: with its records, without taking them out of it
  // and putting them back.
  void Reopen(uint32_t segment, int reuse_class, uint64_t start_ms);
  // Ends the keeping: gone at once if it is empty, else when it becomes so.
  void Close(uint32_t segment);

  // Makes a record that is in none the segment's nearest.
  void PushNearest(uint32_t segment, uint32_t record);
  // Puts it just deeper than `anchor`, into its segment.
  void InsertBehind(uint32_t anchor, uint32_t record);
  void Remove(uint32_t record);

  // Moves segments to the bins of their age, which is taken at this time until the next call.
  void Advance(uint64_t now_ms);

  // Cells in the order in which their blocks are to go. REQUIRES: every cell that has records, or
  // will have before the next call, once.
  void SetOrder(const std::vector<uint16_t>& order);
  // The first cell at or after `rank` in that order that has records; -1 = there is none.
  int FirstCell(int rank) const;
  int NextCell(int cell) const { return FirstCell(rank_of_[cell] + 1); }
  // The oldest segment with records. 0 = none.
  uint32_t OldestIn(int cell) const { return SkipEmpty(cells_[cell].oldest); }
  // The one with records whose turn came first. Of one turn: what ends its request goes before the
  // rest, then, as classes come in the order of their uses, what fewer others share. 0 = none.
  uint32_t Oldest() const;

  // Calls f(segment) for about `limit` of them at most. Each stands for SampleWeight(limit).
  template <class F>
  void Sample(size_t limit, F f) const {
    const size_t step = SampleStep(limit);
    for (size_t i = 1 + step / 2; i < segments_.size(); i += step) {
      if (segments_[i].size != 0) f(segments_[i]);
    }
  }
  double SampleWeight(size_t limit) const { return static_cast<double>(SampleStep(limit)); }
  size_t memory_bytes() const;

 private:
  struct Cell {
    uint32_t newest = 0, oldest = 0;  // segments
    uint32_t records = 0;
  };
  static constexpr size_t kRankWords = (ReuseTable::kCells + 63) / 64;

  static int CellOf(const Segment& segment) {
    return ReuseTable::CellOf(segment.reuse_class, segment.bin);
  }
  size_t SampleStep(size_t limit) const { return segments_.size() / limit + 1; }
  uint32_t Make(int reuse_class, const Turn& turn, uint32_t later);
  // Links a segment that is in no list, just earlier than `later`; 0 = as the latest. Keeps it.
  void Link(uint32_t segment, int reuse_class, const Turn& turn, uint32_t later);
  void Unlink(uint32_t segment);
  // The earliest of those that start after `start_ms`. 0 = none.
  uint32_t EarliestAfter(uint64_t start_ms);
  // The one behind which it belongs in its cell; 0 = it is the newest.
  uint32_t NewerInCell(uint32_t segment) const;
  // Into its cell, just older than `newer`; 0 = as the newest.
  void EnterCell(uint32_t segment, uint32_t newer);
  // Calls f(reuse_class) for those that have segments.
  template <class F>
  void ForEachUsedClass(F f) const {
    for (size_t word = 0; word < used_classes_.size(); ++word) {
      for (uint64_t bits = used_classes_[word]; bits != 0; bits &= bits - 1) {
        f(static_cast<int>(word * 64) + std::countr_zero(bits));
      }
    }
  }
  void LeaveCell(uint32_t segment);
  void CountInCell(const Segment& segment, int64_t more);
  uint32_t SkipEmpty(uint32_t segment) const {
    while (segment != 0 && segments_[segment].size == 0) segment = segments_[segment].newer;
    return segment;
  }

  PolicyNode* const nodes_;
  Pieces<Segment> segments_;  // 0 is none
  uint32_t free_ = 0;
  uint32_t latest_ = 0, earliest_ = 0;
  uint32_t looked_up_ = 0;  // near what EarliestAfter found last; 0 = nothing
  uint64_t advanced_ms_ = 0;
  uint64_t turns_ = 0;
  size_t records_ = 0;
  std::vector<Cell> cells_;
  std::vector<uint16_t> rank_of_;                              // by cell
  std::vector<uint16_t> cell_at_;                              // by rank
  std::array<uint64_t, kRankWords> filled_ = {};               // a bit a rank: its cell has records
  std::array<uint32_t, ReuseTable::kClasses> used_bins_ = {};  // a bit a bin: the cell has segments
  std::array<uint64_t, ReuseTable::kClasses / 64> used_classes_ = {};  // a bit a class: it has any
};

}  // namespace infercache::store
