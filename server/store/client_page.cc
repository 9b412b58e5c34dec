#include "server/store/client_page.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache::store {
namespace {

// Between two looks at a lane's counters, whoever moves them: days of hits, and what bytes and
// microseconds these may stand for.
constexpr uint64_t kMostCalls = uint64_t{1} << 40;
constexpr uint64_t kMostOfAny = uint64_t{1} << 56;
// What totals stop at. Two of them, or one and what the daemon counted itself, do not wrap.
constexpr uint64_t kMostInAll = uint64_t{1} << 62;
static_assert(shm::kLanes * kMostOfAny <= kMostInAll);

void AddUpTo(uint64_t most, uint64_t more, uint64_t* total) {
  *total = std::min(*total + more, most);
}

// How far a counter that its owner may set to anything has come since it was `seen`.
uint64_t Advance(const std::atomic<uint64_t>& counter, uint64_t most, uint64_t* seen) {
  const uint64_t now = counter.load(std::memory_order_relaxed);
  const uint64_t delta = now - std::exchange(*seen, now);
  return delta <= most ? delta : 0;
}

}  // namespace

void ClientCounters::Add(const ClientCounters& other) {
  AddUpTo(kMostInAll, other.hits, &hits);
  AddUpTo(kMostInAll, other.misses, &misses);
  AddUpTo(kMostInAll, other.hit_bytes, &hit_bytes);
  AddUpTo(kMostInAll, other.saved_compute_us, &saved_compute_us);
}

absl::StatusOr<std::shared_ptr<ClientPage>> ClientPage::Create(uint32_t slot_limit) {
  ASSIGN_OR_RETURN(
      MemorySegment memory,
      MemorySegment::Create("infercache-session", shm::SessionPage::BytesFor(kMaxPinSlots),
                            MemorySegment::Access::kWritableForOthers));
  return std::shared_ptr<ClientPage>(new ClientPage(std::move(memory), slot_limit));
}

ClientPage::ClientPage(MemorySegment memory, uint32_t slot_limit)
    : memory_(std::move(memory)),
      page_(shm::SessionPage::Format(memory_.bytes(), kMaxPinSlots)),
      slot_limit_(std::min(slot_limit, kMaxPinSlots)) {}

size_t ClientPage::TakeTouchesLocked(size_t limit, ApplyTouch apply) {
  size_t taken = 0;
  for (uint32_t i = 0; i < shm::kLanes && taken < limit; ++i) {
    const uint32_t lane = (next_lane_ + i) % shm::kLanes;
    const uint64_t before = drained_[lane];
    uint64_t& drained = drained_[lane];
    const uint64_t touched = page_.lane(lane).touched.load(std::memory_order_acquire);
    // A position that has moved back, or more than a ring ahead, makes older touches lost ones.
    if (touched - drained > shm::kRingEntries) {
      drained = touched - shm::kRingEntries;
      mid_request_[lane] = false;
    }
    for (; drained != touched && taken < limit; ++drained, ++taken) {
      const uint64_t touch = page_.touch(lane, drained).load(std::memory_order_relaxed);
      apply(touch, !std::exchange(mid_request_[lane], !shm::EndsRequest(touch)));
    }
    if (drained != before) page_.lane(lane).drained.store(drained, std::memory_order_release);
    // The others come first the next time, however fast this one fills up.
    if (taken == limit) next_lane_ = (lane + 1) % shm::kLanes;
  }
  return taken;
}

size_t ClientPage::TakeTouches(size_t limit, ApplyTouch apply) {
  MutexLock lock(&drain_mu_);
  return TakeTouchesLocked(limit, apply);
}

size_t ClientPage::TryTakeTouches(size_t limit, ApplyTouch apply) {
  if (!drain_mu_.TryLock()) return 0;
  const size_t taken = TakeTouchesLocked(limit, apply);
  drain_mu_.Unlock();
  return taken;
}

ClientCounters ClientPage::TakeCounters() {
  ClientCounters sum;
  MutexLock lock(&counters_mu_);
  for (uint32_t i = 0; i < shm::kLanes; ++i) {
    const shm::LaneHeader& lane = page_.lane(i);
    ClientCounters& seen = seen_[i];
    sum.hits += Advance(lane.hits, kMostCalls, &seen.hits);
    sum.misses += Advance(lane.misses, kMostCalls, &seen.misses);
    sum.hit_bytes += Advance(lane.hit_bytes, kMostOfAny, &seen.hit_bytes);
    sum.saved_compute_us += Advance(lane.saved_compute_us, kMostOfAny, &seen.saved_compute_us);
  }
  return sum;
}

}  // namespace infercache::store
