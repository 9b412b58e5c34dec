// Keeps callers from waiting for a daemon that does not answer.
//
// closed: calls go through; `failures` transport failures in a row open it.
// open: calls are refused; once per `probe_interval` one refusal asks its caller to start a probe.
// half-open: the probe is under way, calls are still refused. Its answer closes the breaker.
//
// The probe is a call of its own, in the background, and no caller's request: with a daemon that
// hangs, a request that served as the probe would cost its caller a whole deadline.
//
// Thread-safe.

#pragma once

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace infercache {

class CircuitBreaker {
 public:
  enum class State { kClosed, kOpen, kHalfOpen };
  enum class Admission {
    kAllow,
    kRefuse,
    kRefuseAndProbe,  // the caller starts a probe and reports it with OnProbe()
  };

  // `failures` 0 = never opens. `clock` may be called on any thread.
  CircuitBreaker(int failures, absl::Duration probe_interval, std::function<absl::Time()> clock);

  [[nodiscard]] Admission Admit();
  // How an admitted call ended: somebody answered, with success or an error; or nobody did.
  void OnAnswered();
  void OnUnreachable();
  // How the probe ended.
  void OnProbe(bool answered);

  State state() const;

 private:
  // Constant after construction.
  const int max_failures_;
  const absl::Duration probe_interval_;
  const std::function<absl::Time()> clock_;

  mutable absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kClosed;
  int failures_ ABSL_GUARDED_BY(mu_) = 0;  // in a row
  absl::Time next_probe_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace infercache
