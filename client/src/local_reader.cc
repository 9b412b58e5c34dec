#include "client/src/local_reader.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/get_sink.h"
#include "client/src/local_object.h"
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
  return Settled::kYes;
}

absl::Status TooLarge(uint64_t size_bytes, size_t room) {
  return absl::OutOfRangeError(
      absl::StrCat("object of ", size_bytes, " bytes, destination of ", room));
}

absl::Status BeyondBudget(const LocalSession& session, uint64_t size_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "a view of ", size_bytes,
      " bytes would exceed what this client may hold: ", session.pin_budget_bytes(), " bytes"));
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
  return intact ? Settled::kYes : Settled::kAskDaemon;
}

// An object's bytes in memory of this process.
struct HeapCopy {
  std::unique_ptr<std::byte[]> bytes;
  Settled settled = Settled::kYes;
};

HeapCopy CopyToHeap(LocalSession& session, const shm::Record& record,
                    std::span<const std::byte> bytes, shm::PinSlot& slot) {
  HeapCopy copy;
  copy.bytes.reset(new (std::nothrow) std::byte[bytes.size()]);
  if (copy.bytes != nullptr) {
    copy.settled = CopyAndUnpin(session, record, bytes, copy.bytes.get(), slot);
  }
  return copy;
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
    return Settled::kYes;
  }
  result->size_bytes = bytes->size();
  if (bytes->size() > destination.size()) {
    result->status = TooLarge(bytes->size(), destination.size());
    shm::Unpin(slot);
    return Settled::kYes;
  }
  if (bytes->size() > kMaxLaneCopyBytes) {
    shm::Unpin(slot);
    return CopyLarge(lane, key, destination, now_ms, result, touch);
  }
  const uint64_t pin = slot.load(std::memory_order_relaxed);
  const float cost = record.compute_cost_ms;
  const Settled copied = CopyAndUnpin(session, record, *bytes, destination.data(), slot);
  if (copied != Settled::kYes) [[unlikely]] {
    *result = {};
    return copied;
  }
  lane.CountHit(bytes->size(), cost);
  result->hit = true;
  *touch = pin;
  return Settled::kYes;
}

// Found once more, in a slot that can be kept without the lane: a pin cannot move from one slot to
// another, because the daemon might look at each at the wrong moment.
Settled LocalReader::CopyLarge(Lane& lane, std::string_view key, std::span<std::byte> destination,
                               uint64_t now_ms, GetIntoResult* result, uint64_t* touch) {
  const std::shared_ptr<LocalSession> session = lane.shared_session();
  ClaimedSlot claimed(*session, lane.number());
  // All slots are taken by views: then in the lane's own, and others wait for it.
  shm::PinSlot& slot = claimed.valid() ? claimed.slot() : lane.slot();
  *result = {};
  const FindResult found =
      shm::FindAndPin(session->index(), session->HashOf(key), key, now_ms, slot);
  if (found.outcome != FindOutcome::kPinned) return NotFound(lane, found.outcome);
  const shm::Record& record = *found.record;
  const auto bytes = BytesOf(*session, record);
  if (!bytes.ok() || bytes->size() > destination.size()) {
    result->status = bytes.ok() ? TooLarge(bytes->size(), destination.size()) : bytes.status();
    if (bytes.ok()) result->size_bytes = bytes->size();
    shm::Unpin(slot);
    return Settled::kYes;
  }
  const uint64_t pin = slot.load(std::memory_order_relaxed);
  const float cost = record.compute_cost_ms;
  const uint64_t size = bytes->size();
  if (claimed.valid()) lane.Release();
  Settled copied;
  if (session->TakeBudget(size)) {
    copied = CopyAndUnpin(*session, record, *bytes, destination.data(), slot);
    session->ReturnBudget(size);
  } else {
    MutexLock one_at_a_time(&session->beyond_budget());
    copied = CopyAndUnpin(*session, record, *bytes, destination.data(), slot);
  }
  if (!lane) lane = lanes_.Take();
  if (copied != Settled::kYes) return copied;
  result->size_bytes = size;
  result->hit = true;
  // After a reconnection the pin would name something else.
  if (!lane || lane.shared_session() != session) return Settled::kYes;
  lane.CountHit(size, cost);
  *touch = pin;
  return Settled::kYes;
}

Settled LocalReader::ViewOne(Lane& lane, std::string_view key, Copies copies, uint64_t now_ms,
                             GetResult* result, uint64_t* touch) {
  LocalSession& session = lane.session();
  if (!session.alive()) [[unlikely]]
    return Settled::kNoSession;
  // Outlives the slot, also when the lane is given up.
  std::shared_ptr<LocalSession> kept = lane.shared_session();
  ClaimedSlot claimed(session, lane.number());
  if (!claimed.valid()) [[unlikely]] {
    session.AskForSlots(2 * session.slots().limit());
    return ViewWithoutSlot(lane, key, copies, now_ms, result, touch);
  }
  const FindResult found =
      shm::FindAndPin(session.index(), session.HashOf(key), key, now_ms, claimed.slot());
  if (found.outcome != FindOutcome::kPinned) return NotFound(lane, found.outcome);
  const shm::Record& record = *found.record;
  std::vector<PartSpec> parts;
  ObjectInfo info;
  const auto bytes = BytesOf(session, record);
  result->status = bytes.status();
  if (bytes.ok()) result->status = Describe(session, record, now_ms, &parts, &info);
  if (!result->status.ok()) [[unlikely]]
    return Settled::kYes;
  const uint64_t pin = claimed.slot().load(std::memory_order_relaxed);
  const float cost = record.compute_cost_ms;
  const uint64_t size = bytes->size();
  if (session.TakeBudget(size)) {
    if (!session.alive() || !Intact(session, record, *bytes)) {
      session.ReturnBudget(size);
      return session.alive() ? Settled::kAskDaemon : Settled::kNoSession;
    }
    result->object.emplace(*bytes, std::move(parts), std::move(info),
                           HoldPin(std::move(kept), claimed.HandOn(), size));
    lane.CountHit(size, cost);
    *touch = pin;
    return Settled::kYes;
  }
  if (copies == Copies::kRefused) {
    result->status = BeyondBudget(session, size);
    return Settled::kYes;
  }
  lane.Release();
  HeapCopy copy;
  {
    MutexLock one_at_a_time(&kept->beyond_budget());
    copy = CopyToHeap(*kept, record, *bytes, claimed.slot());
  }
  lane = lanes_.Take();
  if (copy.settled != Settled::kYes) return copy.settled;
  if (copy.bytes == nullptr) {
    result->status = NoMemoryFor(size);
    return Settled::kYes;
  }
  result->object.emplace(
      HeapObject(std::move(copy.bytes), size, std::move(parts), std::move(info)));
  if (!lane || lane.shared_session() != kept) return Settled::kYes;
  lane.CountHit(size, cost);
  *touch = pin;
  return Settled::kYes;
}

Settled LocalReader::ViewWithoutSlot(Lane& lane, std::string_view key, Copies copies,
                                     uint64_t now_ms, GetResult* result, uint64_t* touch) {
  LocalSession& session = lane.session();
  shm::PinSlot& slot = lane.slot();
  const FindResult found = shm::FindAndPin(session.index(), session.HashOf(key), key, now_ms, slot);
  if (found.outcome != FindOutcome::kPinned) return NotFound(lane, found.outcome);
  const shm::Record& record = *found.record;
  std::vector<PartSpec> parts;
  ObjectInfo info;
  const auto bytes = BytesOf(session, record);
  result->status = bytes.status();
  if (bytes.ok()) result->status = Describe(session, record, now_ms, &parts, &info);
  if (result->status.ok() && copies == Copies::kRefused) result->status = OutOfSlots(session);
  if (!result->status.ok()) {
    shm::Unpin(slot);
    return Settled::kYes;
  }
  const uint64_t pin = slot.load(std::memory_order_relaxed);
  const uint64_t size = bytes->size();
  HeapCopy copy = CopyToHeap(session, record, *bytes, slot);
  if (copy.settled != Settled::kYes) return copy.settled;
  if (copy.bytes == nullptr) {
    shm::Unpin(slot);
    result->status = NoMemoryFor(size);
    return Settled::kYes;
  }
  lane.CountHit(size, info.compute_cost_ms);
  result->object.emplace(
      HeapObject(std::move(copy.bytes), size, std::move(parts), std::move(info)));
  *touch = pin;
  return Settled::kYes;
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
  if (touch != 0) lane.Touch(touch);
  return settled;
}

uint32_t LocalReader::SlotsLacking(size_t views) {
  const Lane lane = lanes_.Take();
  if (!lane) return 0;
  const PinSlots& slots = lane.session().slots();
  if (views <= 1 || slots.limit() == slots.capacity() || !lane.session().grants_slots()) return 0;
  const uint32_t free = slots.CountFree();
  return views <= free ? 0 : static_cast<uint32_t>(std::min<size_t>(views - free, kMaxPinSlots));
}

}  // namespace infercache
