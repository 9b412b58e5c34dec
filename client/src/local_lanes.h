// What a thread needs for a hit, for itself alone while it has it: a pin slot, a touch ring and
// counters of the session page, and the session itself.
//
// A thread takes the lane it had last, with one exchange, or the next one that is free. Everything
// below is plain memory under that one flag. Thread-safe.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "client/src/local_session.h"

namespace infercache {

class LocalLanes {
  struct State;

 public:
  // A lane, taken. Move-only; one thread's; gives the lane back when it is destroyed. Held for as
  // long as one call takes, and never while something is waited for.
  class Lane {
   public:
    Lane() = default;
    Lane(Lane&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
    Lane& operator=(Lane&& other) noexcept;
    ~Lane() { Release(); }

    // False: there is no session.
    explicit operator bool() const { return state_ != nullptr; }
    void Release();

    LocalSession& session() const { return *state_->session; }
    const std::shared_ptr<LocalSession>& shared_session() const { return state_->session; }
    uint32_t number() const { return state_->number; }
    // The lane's own, free between two uses.
    shm::PinSlot& slot() const { return *state_->slot; }

    void CountHit(uint64_t bytes, float compute_cost_ms);
    void CountMiss();
    // A use of what the pin names, a whole request.
    void Touch(uint64_t pin);
    // The uses of one request, in the order of its keys; 0 = none. Reported from the last to the
    // first.
    void TouchAll(std::span<const uint64_t> pins);

   private:
    friend class LocalLanes;
    explicit Lane(State* state) : state_(state) {}
    State* state_ = nullptr;
  };

  LocalLanes();
  LocalLanes(const LocalLanes&) = delete;
  LocalLanes& operator=(const LocalLanes&) = delete;

  Lane Take();
  // Hits come from `session` from here on; null = there are none. Waits for lanes that are taken.
  void Install(std::shared_ptr<LocalSession> session);

 private:
  // Reported lately, with when: repeats say nothing new.
  struct Reported {
    uint64_t pin = 0;
    uint64_t at_ms = 0;
  };
  static constexpr size_t kFilterEntries = 256;  // a power of two

  struct alignas(64) State {
    std::atomic<bool> taken{false};
    // Of whoever has taken it.
    uint32_t number = 0;
    std::shared_ptr<LocalSession> session;
    shm::PinSlot* slot = nullptr;
    shm::LaneHeader* page = nullptr;
    uint64_t drain_asked_at = ~uint64_t{0};  // `drained` as it was when Drain was sent
    bool wants_drain = false;
    std::array<Reported, kFilterEntries> reported;
  };

  static bool IsNews(State& state, uint64_t pin, uint64_t now_ms);
  static void Write(State& state, uint64_t touch);

  // How many have a slot; 0 = there is no session.
  std::atomic<uint32_t> usable_{0};
  std::array<State, shm::kLanes> states_;
};

}  // namespace infercache
