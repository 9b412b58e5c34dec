// The learned index, policy "auto": evicts the block whose class and age promise the least reuse
// for the time that it would be held (reuse_table.h), of these the oldest request's, of that the
// deepest. A new block may be that block: admission is part of it. Least recently used until there
// is something to go by, and for a while where that would have had more hits (lru_rival.h).
//
// It learns from members and from ghosts, at most kGhostsOfSmall times as many as members, and
// kGhostsOfLarge times where a block is so large that their memory does not matter.

#pragma once

#include <vector>

#include "server/store/eviction/ghosts.h"
#include "server/store/eviction/lru_rival.h"
#include "server/store/eviction/policy.h"
#include "server/store/eviction/reuse_table.h"
#include "server/store/eviction/segments.h"

namespace infercache::store {

class LearnedPolicy final : public Policy {
 public:
  explicit LearnedPolicy(PolicyNode* nodes);

  void Insert(uint32_t record, const Use& use) override;
  void Touch(uint32_t record, const Use& use) override;
  void PrefetchTouch(uint32_t record) const override { segments_.Prefetch(nodes_[record].group); }
  void PrefetchHash(uint64_t hash) const override { ghosts_.Prefetch(hash); }
  void Remove(uint32_t record, const Departure& departure) override;
  uint32_t Victim(uint64_t now_ms, MayGo may_go) override;
  size_t memory_bytes() const override {
    return table_.memory_bytes() + segments_.memory_bytes() + ghosts_.memory_bytes();
  }
  bool trained() const { return table_.trained(); }

 private:
  static constexpr size_t kGhostsOfSmall = 2;
  static constexpr size_t kGhostsOfLarge = 4;
  static constexpr double kLargeBytes = 256 * 1024;
  static constexpr size_t kSample = 4'096;
  static constexpr uint64_t kBetweenLessonsMs = 30'000;
  static constexpr uint64_t kRequestsPerLesson = 100;
  static constexpr uint64_t kBetweenAdvancesMs = 100;
  static constexpr uint8_t kFirstMark = 2;  // Segments has 1, for what is moved for other reasons
  // What is used within this time is used at once, in one turn, as long as it is no more than this
  // part of all: requests share their segments, which costs the fewer the more come, and what is
  // used all the time is not worth a move each time.
  static constexpr uint64_t kTurnMs = 10;
  static constexpr size_t kTurnsOfAll = 64;

  // Whether what is used then is used in the latest turn.
  bool InTurn(uint64_t used_ms) const {
    return turn_.start_ms <= used_ms && used_ms - turn_.start_ms < kTurnMs &&
           turn_uses_ < segments_.records() / kTurnsOfAll;
  }
  // Begins a turn if this request is not of the latest, and does what time has made due.
  void Begin(const Use& use);
  void StartTurn(uint64_t start_ms);
  void KeepTime(uint64_t now_ms);
  void Learn(uint64_t now_ms);
  // The segment into which the turn's blocks of this class go; or those of the request that go on
  // the segment `anchor`: of several chains each has its own.
  uint32_t OpenSegment(int reuse_class);
  uint32_t OpenSegmentBehind(int reuse_class, uint32_t anchor);
  // The one that is open for them; 0 = none. `goes_on`: see Opened.
  uint32_t FindOpened(int reuse_class, uint64_t goes_on) const;
  // A member is used, and is of this class from now on.
  void Move(uint32_t record, int reuse_class);
  void Enter(uint32_t segment, uint32_t record);
  // It came or moved just now.
  void Mark(uint32_t record) {
    nodes_[record].list = mark_;
    ++turn_uses_;
  }
  void InsertBehind(uint32_t anchor, uint32_t record, int reuse_class);
  size_t MostGhosts() const;

  uint32_t VictimByIndex(uint64_t now_ms, MayGo may_go);
  uint32_t VictimByAge(uint64_t now_ms, MayGo may_go);
  // Out of the way of this search and the next: as if it were used now, without counting as a use.
  void Renew(uint32_t record, uint64_t now_ms);
  bool IsRenewed(uint32_t segment) const { return segments_[segment].turn.number == renewed_turn_; }

  PolicyNode* const nodes_;
  ReuseTable table_;
  Segments segments_;
  GhostTable ghosts_;
  LruRival rival_;
  double mean_bytes_ = 0;

  struct Opened {
    uint8_t reuse_class;
    uint64_t goes_on;  // the number of the turn of what it goes on, 0 = nothing
    uint32_t segment;
  };

  uint64_t request_ = 0;  // the latest
  // What has come or moved with it bears this as its list. After 254 requests it comes again: a
  // repeat of what was used just so many ago may be taken for one that has moved.
  uint8_t mark_ = kFirstMark;
  Segments::Turn turn_;         // the latest
  size_t turn_uses_ = 0;        // what came or moved in it
  std::vector<Opened> opened_;  // of the turn; what goes on is the request's
  uint64_t renewed_turn_ = 0;   // of what the search in progress has moved; 0 = nothing

  uint64_t advanced_ms_ = 0;
  uint64_t learned_ms_ = 0;  // 0 = the clock has not been seen
  uint64_t requests_ = 0;    // since then
};

}  // namespace infercache::store
