#include "client/src/circuit_breaker.h"

#include <utility>

namespace infercache {

CircuitBreaker::CircuitBreaker(int failures, absl::Duration probe_interval,
                               std::function<absl::Time()> clock)
    : max_failures_(failures), probe_interval_(probe_interval), clock_(std::move(clock)) {}

CircuitBreaker::Admission CircuitBreaker::Admit() {
  absl::MutexLock lock(&mu_);
  if (state_ == State::kClosed) return Admission::kAllow;
  if (state_ == State::kHalfOpen || clock_() < next_probe_) return Admission::kRefuse;
  state_ = State::kHalfOpen;
  return Admission::kRefuseAndProbe;
}

void CircuitBreaker::OnAnswered() {
  absl::MutexLock lock(&mu_);
  failures_ = 0;
  // Also from open: a call that was admitted before it opened got through after all. A probe that
  // is under way then reports to a closed breaker.
  state_ = State::kClosed;
}

void CircuitBreaker::OnUnreachable() {
  absl::MutexLock lock(&mu_);
  if (state_ != State::kClosed || max_failures_ == 0) return;
  if (++failures_ < max_failures_) return;
  state_ = State::kOpen;
  next_probe_ = clock_() + probe_interval_;
}

void CircuitBreaker::OnProbe(bool answered) {
  if (answered) return OnAnswered();
  absl::MutexLock lock(&mu_);
  if (state_ != State::kHalfOpen) return;
  state_ = State::kOpen;
  next_probe_ = clock_() + probe_interval_;
}

CircuitBreaker::State CircuitBreaker::state() const {
  absl::MutexLock lock(&mu_);
  return state_;
}

}  // namespace infercache
