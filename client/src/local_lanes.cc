#include "client/src/local_lanes.h"

#include <sched.h>

#include <utility>

#include "common/clock.h"
#include "infercache/v1/local.pb.h"

namespace infercache {
namespace {

constexpr uint64_t kRepeatMs = 5;

// Which lane a thread tries first: they take turns in the order in which they come. Shared by all
// clients of the process.
uint32_t PreferredLane() {
  static std::atomic<uint32_t> next{0};
  thread_local const uint32_t mine = next.fetch_add(1, std::memory_order_relaxed);
  return mine;
}

// Single writer: no read-modify-write.
void Add(std::atomic<uint64_t>& counter, uint64_t n) {
  counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}

}  // namespace

LocalLanes::LocalLanes() {
  for (uint32_t i = 0; i < shm::kLanes; ++i) states_[i].number = i;
}

LocalLanes::Lane& LocalLanes::Lane::operator=(Lane&& other) noexcept {
  if (this != &other) {
    Release();
    state_ = std::exchange(other.state_, nullptr);
  }
  return *this;
}

void LocalLanes::Lane::Release() {
  if (state_ == nullptr) return;
  State& state = *std::exchange(state_, nullptr);
  if (!state.wants_drain) [[likely]] {
    state.taken.store(false, std::memory_order_release);
    return;
  }
  // Sent without the lane: it is a system call.
  state.wants_drain = false;
  const std::shared_ptr<LocalSession> session = state.session;
  state.taken.store(false, std::memory_order_release);
  v1::LocalRequest request;
  request.mutable_drain();
  session->connection().Tell(request);
}

LocalLanes::Lane LocalLanes::Take() {
  const uint32_t preferred = PreferredLane();
  while (true) {
    const uint32_t usable = usable_.load(std::memory_order_relaxed);
    for (uint32_t i = 0; i < usable; ++i) {
      State& state = states_[(preferred + i) % usable];
      if (state.taken.load(std::memory_order_relaxed) ||
          state.taken.exchange(true, std::memory_order_acquire)) {
        continue;
      }
      if (state.session != nullptr) {
        // Not before somebody needs it: the daemon's scans go as far as the slots in use.
        if (state.slot == nullptr) [[unlikely]] {
          PinSlots& slots = state.session->slots();
          state.slot = &slots.slot(slots.OfLane(state.number));
        }
        return Lane(&state);
      }
      state.taken.store(false, std::memory_order_release);
      return Lane();
    }
    if (usable == 0) return Lane();
    // All taken, each for the time of a copy at most.
    sched_yield();
  }
}

void LocalLanes::Install(std::shared_ptr<LocalSession> session) {
  const uint32_t lanes = session == nullptr ? 0 : session->slots().lanes();
  if (lanes < usable_.load(std::memory_order_relaxed)) {
    usable_.store(lanes, std::memory_order_relaxed);
  }
  for (State& state : states_) {
    while (state.taken.exchange(true, std::memory_order_acquire)) sched_yield();
    const std::shared_ptr<LocalSession> before = std::move(state.session);
    state.session = nullptr;
    if (state.number < lanes) {
      state.session = session;
      state.slot = nullptr;
      state.page = &session->page().lane(state.number);
    }
    state.drain_asked_at = ~uint64_t{0};
    state.wants_drain = false;
    state.reported = {};
    state.taken.store(false, std::memory_order_release);
  }
  usable_.store(lanes, std::memory_order_relaxed);
}

void LocalLanes::Lane::CountHit(uint64_t bytes, float compute_cost_ms) {
  Add(state_->page->hits, 1);
  Add(state_->page->hit_bytes, bytes);
  if (compute_cost_ms > 0) {
    Add(state_->page->saved_compute_us, static_cast<uint64_t>(compute_cost_ms * 1000.0));
  }
}

void LocalLanes::Lane::CountMiss() { Add(state_->page->misses, 1); }

bool LocalLanes::IsNews(State& state, uint64_t pin, uint64_t now_ms) {
  Reported& entry = state.reported[(pin * 0x9e3779b97f4a7c15u) >> 56];
  static_assert(kFilterEntries == 256);
  if (entry.pin == pin && now_ms - entry.at_ms < kRepeatMs) return false;
  entry = {pin, now_ms};
  return true;
}

void LocalLanes::Write(State& state, uint64_t touch) {
  const uint64_t position = state.page->touched.load(std::memory_order_relaxed);
  state.session->page().touch(state.number, position).store(touch, std::memory_order_relaxed);
  state.page->touched.store(position + 1, std::memory_order_release);
  const uint64_t drained = state.page->drained.load(std::memory_order_relaxed);
  if (position + 1 - drained <= shm::kRingEntries / 4 * 3) [[likely]]
    return;
  // Once, until the daemon has taken some.
  if (state.drain_asked_at == drained) return;
  state.drain_asked_at = drained;
  state.wants_drain = true;
}

void LocalLanes::Lane::Touch(uint64_t pin) {
  if (!IsNews(*state_, pin, MonotonicClock().NowMs())) return;
  Write(*state_, shm::MakeTouch(pin, /*end_of_request=*/true));
}

void LocalLanes::Lane::TouchAll(std::span<const uint64_t> pins) {
  const uint64_t now_ms = MonotonicClock().NowMs();
  uint64_t last = 0;
  for (size_t i = pins.size(); i > 0; --i) {
    if (pins[i - 1] == 0 || !IsNews(*state_, pins[i - 1], now_ms)) continue;
    if (last != 0) Write(*state_, shm::MakeTouch(last, /*end_of_request=*/false));
    last = pins[i - 1];
  }
  if (last != 0) Write(*state_, shm::MakeTouch(last, /*end_of_request=*/true));
}

}  // namespace infercache
