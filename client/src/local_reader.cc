#include "client/src/local_reader.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "client/src/get_sink.h"
#include "client/src/local_object.h"
#include "client/src/results.h"
#include "common/clock.h"
#include "common/shm/reader.h"

namespace infercache {
namespace {

using shm::FindOutcome;
using shm::FindResult;
using Settled = LocalReader::Settled;

// Above this a copy does not keep a lane, and with it a thread that shares it, from its work.
constexpr uint64_t kMaxLaneCopyBytes = 64 * 1024;

// A slot that is not the lane's. Frees it, unpinned, unless it was handed on.
class ClaimedSlot {
 public:
  ClaimedSlot(LocalSession& session, uint32_t lane)
      : slots_(session.slots()), number_(slots_.Claim(lane)) {}
  ~ClaimedSlot() {
    if (number_ == PinSlots::kNone) return;
    shm::Unpin(slots_.slot(number_));
    slots_.Free(number_);
  }
  ClaimedSlot(const ClaimedSlot&) = delete;
  ClaimedSlot& operator=(const ClaimedSlot&) = delete;

  bool valid() const { return number_ != PinSlots::kNone; }
  shm::PinSlot& slot() const { return slots_.slot(number_); }
  uint32_t HandOn() { return std::exchange(number_, PinSlots::kNone); }

 private:
  PinSlots& slots_;
  uint32_t number_;
};

// What is neither hit nor left for others is a miss.
Settled NotFound(LocalLanes::Lane& lane, FindOutcome outcome) {
  // What a page says that was revoked meanwhile may be of any time.
  if (!lane.session().alive()) return Settled::kNoSession;
  if (outcome == FindOutcome::kChanging) return Settled::kAskDaemon;
  lane.CountMiss();
  return Settled::kDecided;
}

absl::Status BeyondBudget(const LocalSession& session, uint64_t size_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "a view of ", size_bytes,
      " bytes would exceed what this client may hold: ", session.pins()->budget_bytes(), " bytes"));
}

absl::Status OutOfSlots(LocalSession& session) {
  return absl::ResourceExhaustedError(
      absl::StrCat("this client holds views in all of its ", session.slots().limit(), " slots"));
}

// Copies a pinned record's bytes into `destination`, which has room, and lets go of the pin.
Settled CopyAndUnpin(LocalSession& session, const shm::Record& record,
                     std::span<const std::byte> bytes, std::byte* destination, shm::PinSlot& slot) {
  if (!bytes.empty()) std::memcpy(destination, bytes.data(), bytes.size());
  const bool intact = Intact(session, record, {destination, bytes.size()});
  shm::Unpin(slot);
  if (session.RevokedMeanwhile()) return Settled::kNoSession;
  return intact ? Settled::kDecided : Settled::kAskDaemon;
}

// Room for a pin that lasts as long as a copy: bytes of the budget, or beyond it the turn of one
// thread at a time. REQUIRES: who asks for it pins nothing, for it may wait.
class RoomForCopy {
 public:
  RoomForCopy(LocalSession& session, uint64_t size) ABSL_NO_THREAD_SAFETY_ANALYSIS
      : session_(session),
        size_(size),
        within_budget_(session.pins()->TakeBudget(size)) {
    if (!within_budget_) session_.beyond_budget().Lock();
  }
  ~RoomForCopy() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (within_budget_) {
      session_.pins()->ReturnBudget(size_);
    } else {
      session_.beyond_budget().Unlock();
    }
  }
  RoomForCopy(const RoomForCopy&) = delete;
  RoomForCopy& operator=(const RoomForCopy&) = delete;

 private:
  LocalSession& session_;
  const uint64_t size_;
  const bool within_budget_;
};

}  // namespace

// What came of a copy.
struct LocalReader::Copied {
  FindOutcome outcome = FindOutcome::kMiss;
  Settled settled = Settled::kDecided;  // if it was found
  absl::Status status = {};
  uint64_t pin = 0;
  float compute_cost_ms = 0;
  std::vector<PartSpec> parts = {};
  ObjectInfo info = {};
};

namespace {

// Copies what is under `key`, of destination.size() bytes when it was last looked at; another size
// is a change. It is found once more: a pin cannot move from one slot to another, because the
// daemon might look at each at the wrong moment, and nobody waits while holding one.
LocalReader::Copied CopyInTurn(LocalSession& session, std::string_view key, uint64_t now_ms,
                               bool describe, std::span<std::byte> destination,
                               shm::PinSlot& slot) {
  const RoomForCopy room(session, destination.size());
  const FindResult found = shm::FindAndPin(session.index(), session.HashOf(key), key, now_ms, slot);
  LocalReader::Copied copied = {.outcome = found.outcome};
  if (found.outcome != FindOutcome::kPinned) return copied;
  const shm::Record& record = *found.record;
  const auto bytes = BytesOf(session, record);
  copied.status = bytes.status();
  if (bytes.ok() && bytes->size() != destination.size()) copied.outcome = FindOutcome::kChanging;
  if (bytes.ok() && describe) {
    copied.status = Describe(session, record, now_ms, &copied.parts, &copied.info);
  }
  if (!copied.status.ok() || copied.outcome != FindOutcome::kPinned) {
    shm::Unpin(slot);
    return copied;
  }
  copied.pin = slot.load(std::memory_order_relaxed);
  copied.compute_cost_ms = record.compute_cost_ms;
  copied.settled = CopyAndUnpin(session, record, *bytes, destination.data(), slot);
  return copied;
}

}  // namespace

uint64_t LocalReader::NowMs() const {
  if (!clock_) [[likely]]
    return MonotonicClock().NowMs();
  return static_cast<uint64_t>(absl::ToUnixMillis(clock_()));
}

Settled LocalReader::CopyOne(Lane& lane, std::string_view key, std::span<std::byte> destination,
                             uint64_t now_ms, GetIntoResult* result, uint64_t* touch) {
  LocalSession& session = lane.session();
  if (!session.alive()) [[unlikely]]
    return Settled::kNoSession;
  shm::PinSlot& slot = lane.slot();
  const FindResult found = shm::FindAndPin(session.index(), session.HashOf(key), key, now_ms, slot);
  if (found.outcome != FindOutcome::kPinned) return NotFound(lane, found.outcome);
  const shm::Record& record = *found.record;
  const auto bytes = BytesOf(session, record);
  if (!bytes.ok()) [[unlikely]] {
    result->status = bytes.status();
    shm::Unpin(slot);
    return Settled::kDecided;
  }
  result->size_bytes = bytes->size();
  if (bytes->size() > destination.size()) {
    result->status = TooLarge(bytes->size(), destination.size());
    shm::Unpin(slot);
    return Settled::kDecided;
  }
  if (bytes->size() > kMaxLaneCopyBytes) {
    shm::Unpin(slot);
    return CopyLarge(lane, key, destination.first(bytes->size()), now_ms, result, touch);
  }
  const uint64_t pin = slot.load(std::memory_order_relaxed);
  const float cost = record.compute_cost_ms;
  const Settled copied = CopyAndUnpin(session, record, *bytes, destination.data(), slot);
  if (copied != Settled::kDecided) [[unlikely]] {
    *result = {};
    return copied;
  }
  lane.CountHit(bytes->size(), cost);
  result->hit = true;
  *touch = pin;
  return Settled::kDecided;
}

// In a slot that can be kept without the lane.
Settled LocalReader::CopyLarge(Lane& lane, std::string_view key, std::span<std::byte> destination,
                               uint64_t now_ms, GetIntoResult* result, uint64_t* touch) {
  const std::shared_ptr<LocalSession> session = lane.shared_session();
  ClaimedSlot claimed(*session, lane.number());
  // All slots are taken by views: then in the lane's own, and others wait for it.
  shm::PinSlot& slot = claimed.valid() ? claimed.slot() : lane.slot();
  if (claimed.valid()) lane.Release();
  Copied copied = CopyInTurn(*session, key, now_ms, /*describe=*/false, destination, slot);
  *result = {.status = std::move(copied.status)};
  const Settled settled = CountCopied(lane, session, copied, destination.size(), touch);
  if (settled != Settled::kDecided || copied.pin == 0) return settled;
  result->size_bytes = destination.size();
  result->hit = true;
  return Settled::kDecided;
}

Settled LocalReader::CountCopied(Lane& lane, const std::shared_ptr<LocalSession>& session,
                                 const Copied& copied, uint64_t size, uint64_t* touch) {
  if (!lane) lane = lanes_.Take();
  const bool same_session = lane && lane.shared_session() == session;
  if (copied.outcome != FindOutcome::kPinned) {
    return same_session ? NotFound(lane, copied.outcome) : Settled::kNoSession;
  }
  // After a reconnection the pin would name something else.
  if (copied.pin == 0 || copied.settled != Settled::kDecided || !same_session)
    return copied.settled;
  lane.CountHit(size, copied.compute_cost_ms);
  *touch = copied.pin;
  return Settled::kDecided;
}

Settled LocalReader::ViewOne(Lane& lane, std::string_view key, Copies copies, uint64_t now_ms,
                             GetResult* result, uint64_t* touch) {
  LocalSession& session = lane.session();
  if (!session.alive()) [[unlikely]]
    return Settled::kNoSession;
  std::shared_ptr<LocalSession> kept;  // outlives the slot, when the lane is given up
  ClaimedSlot claimed(session, lane.number());
  if (!claimed.valid()) [[unlikely]] {
    session.pins()->AskForSlots(2 * session.slots().limit());
    return ViewWithoutSlot(lane, key, copies, now_ms, result, touch);
  }
  const FindResult found =
      shm::FindAndPin(session.index(), session.HashOf(key), key, now_ms, claimed.slot());
  if (found.outcome != FindOutcome::kPinned) return NotFound(lane, found.outcome);
  const shm::Record& record = *found.record;
  std::vector<PartSpec> parts;
  ObjectInfo info;
  const auto place = PlaceOf(session, record);
  result->status = place.status();
  if (place.ok()) result->status = Describe(session, record, now_ms, &parts, &info);
  if (!result->status.ok()) [[unlikely]]
    return Settled::kDecided;
  const uint64_t pin = claimed.slot().load(std::memory_order_relaxed);
  const float cost = record.compute_cost_ms;
  const uint64_t size = place->size_bytes;
  if (session.pins()->TakeBudget(size)) {
    // None in a GPU, where whoever has the place knows what to make of it.
    const std::span<const std::byte> bytes = session.Place(place->chunk, place->offset, size);
    if (!session.alive() || !Intact(session, record, bytes)) {
      session.pins()->ReturnBudget(size);
      return session.alive() ? Settled::kAskDaemon : Settled::kNoSession;
    }
    result->object.emplace(bytes, std::move(parts), std::move(info),
                           HoldPin(session.ChunkOf(*place), claimed.HandOn(), *place));
    if (copies != Copies::kOwn) lane.CountHit(size, cost);
    *touch = pin;
    return Settled::kDecided;
  }
  if (copies == Copies::kRefused) {
    result->status = BeyondBudget(session, size);
    return Settled::kDecided;
  }
  shm::Unpin(claimed.slot());
  kept = lane.shared_session();
  lane.Release();
  return GetCopy(lane, kept, claimed.slot(), key, size, now_ms, result, touch);
}

Settled LocalReader::ViewWithoutSlot(Lane& lane, std::string_view key, Copies copies,
                                     uint64_t now_ms, GetResult* result, uint64_t* touch) {
  const std::shared_ptr<LocalSession> session = lane.shared_session();
  shm::PinSlot& slot = lane.slot();
  const FindResult found =
      shm::FindAndPin(session->index(), session->HashOf(key), key, now_ms, slot);
  if (found.outcome != FindOutcome::kPinned) return NotFound(lane, found.outcome);
  const auto place = PlaceOf(*session, *found.record);
  shm::Unpin(slot);
  result->status = place.status();
  if (place.ok() && copies == Copies::kRefused) result->status = OutOfSlots(*session);
  if (!result->status.ok()) return Settled::kDecided;
  return GetCopy(lane, session, slot, key, place->size_bytes, now_ms, result, touch);
}

Settled LocalReader::GetCopy(Lane& lane, const std::shared_ptr<LocalSession>& session,
                             shm::PinSlot& slot, std::string_view key, uint64_t size,
                             uint64_t now_ms, GetResult* result, uint64_t* touch) {
  std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[size]);
  if (memory == nullptr) {
    result->status = NoMemoryFor(size);
    return Settled::kDecided;
  }
  Copied copied = CopyInTurn(*session, key, now_ms, /*describe=*/true, {memory.get(), size}, slot);
  result->status = std::move(copied.status);
  const Settled settled = CountCopied(lane, session, copied, size, touch);
  if (settled != Settled::kDecided || copied.pin == 0) return settled;
  result->object.emplace(
      HeapObject(std::move(memory), size, std::move(copied.parts), std::move(copied.info)));
  return Settled::kDecided;
}

Settled LocalReader::GetInto(std::string_view key, std::span<std::byte> destination,
                             GetIntoResult* result) {
  Lane lane = lanes_.Take();
  if (!lane) return Settled::kNoSession;
  uint64_t touch = 0;
  const Settled settled = CopyOne(lane, key, destination, NowMs(), result, &touch);
  if (touch != 0) lane.Touch(touch);
  return settled;
}

Settled LocalReader::Get(std::string_view key, Copies copies, GetResult* result) {
  Lane lane = lanes_.Take();
  if (!lane) return Settled::kNoSession;
  uint64_t touch = 0;
  const Settled settled = ViewOne(lane, key, copies, NowMs(), result, &touch);
  // To store it was its use: a request of its own would put it before those it follows.
  if (touch != 0 && copies != Copies::kOwn) lane.Touch(touch);
  return settled;
}

uint32_t LocalReader::SlotsLacking(size_t views) {
  const Lane lane = lanes_.Take();
  if (!lane) return 0;
  const PinSlots& slots = lane.session().slots();
  if (views <= 1 || slots.limit() == slots.capacity() || !lane.session().pins()->grants_slots())
    return 0;
  const uint32_t free = slots.CountFree();
  return views <= free ? 0 : static_cast<uint32_t>(std::min<size_t>(views - free, kMaxPinSlots));
}

}  // namespace infercache
