// The learned index, policy "auto": evicts the block whose class and age promise the least reuse
// for the time that it would be held (reuse_table.h), of these the oldest request's, of that the
// deepest. A new block may be that block: admission is part of it. Least recently used until there
// is something to go by, and for a while where that would have had more hits (lru_rival.h).
//
// It learns from members and from ghosts, at most kGhostsOfSmall times as many as members, and
// kGhostsOfLarge times where a block is so large that their memory does not matter.

#pragma once

#include <array>
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
  // What has no chain, and what ends one, shares its segment with what came within this time, as
  // long as that is no more than this part of all: the more come, the fewer segments they cost. Nor
  // is what is used all the time moved more often. (Of a chain the rest does not: in each class the
  // order would be the same, but between classes heads could go before their tails.)
  static constexpr uint64_t kAtOnceMs = 10;
  static constexpr size_t kSharesOfAll = 64;
  static bool AtOnce(uint64_t start_ms, uint64_t now_ms) {
    return start_ms <= now_ms && now_ms - start_ms < kAtOnceMs;
  }

  // Closes the segments of the request before, but for those that are shared, and does what time
  // has made due.
  void Begin(const Use& use);
  void CloseSegments(uint64_t start_ms);
  void KeepTime(uint64_t now_ms);
  void Learn(uint64_t now_ms);
  // The segment into which the request's blocks of this class go; or of it those that go on the
  // segment `anchor`: of several chains each has its own.
  uint32_t OpenSegment(int reuse_class, uint64_t start_ms);
  uint32_t OpenSegmentBehind(int reuse_class, uint32_t anchor);
  // The one that is open for them; 0 = none. `goes_on`: see Opened.
  uint32_t FindOpened(int reuse_class, uint64_t goes_on) const;
  // Of the request in progress: whether this is one of its segments; whether those of this class
  // are shared.
  bool IsOpened(uint32_t segment) const;
  bool Shares(int reuse_class) const { return !is_chain_ || ReuseTable::EndsRequest(reuse_class); }
  // A member is used, and is of this class from now on.
  void Move(uint32_t record, int reuse_class, uint64_t now_ms);
  void Enter(uint32_t segment, uint32_t record);
  void InsertBehind(uint32_t anchor, uint32_t record, int reuse_class);
  size_t MostGhosts() const;

  uint32_t VictimByIndex(uint64_t now_ms, MayGo may_go);
  uint32_t VictimByAge(uint64_t now_ms, MayGo may_go);
  // Out of the way of this search and the next: as if it were used now, without counting as a use.
  void Renew(uint32_t record, uint64_t now_ms);

  PolicyNode* const nodes_;
  ReuseTable table_;
  Segments segments_;
  GhostTable ghosts_;
  LruRival rival_;
  double mean_bytes_ = 0;

  struct Opened {
    uint8_t reuse_class;
    uint64_t goes_on;  // the turn of what it goes on, 0 = nothing
    bool shared;
    uint32_t segment;
  };

  uint64_t request_ = 0;  // whose segments are open
  std::vector<Opened> opened_;
  bool is_chain_ = false;         // the request is: the first block that is told ends it
  uint64_t shared_since_ms_ = 0;  // since when requests share segments, till some are closed
  size_t uses_since_ = 0;         // what has come or moved since then
  // Classes whose pinned blocks the search in progress has moved, and where.
  std::array<uint32_t, ReuseTable::kClasses> renewed_ = {};
  std::vector<uint8_t> renewed_classes_;

  uint64_t advanced_ms_ = 0;
  uint64_t learned_ms_ = 0;  // 0 = the clock has not been seen
  uint64_t requests_ = 0;    // since then
};

}  // namespace infercache::store
