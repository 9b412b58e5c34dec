#include "server/local/host.h"

namespace infercache::local {

void Outstanding::Add(uint64_t n) { count_.fetch_add(n, std::memory_order_relaxed); }

void Outstanding::Remove(uint64_t n) {
  if (n == 0 || count_.fetch_sub(n, std::memory_order_acq_rel) != n) return;
  // Taken and let go, so that who has just found the count above 0 is waiting by now.
  { MutexLock lock(&mu_); }
  none_.SignalAll();
}

bool Outstanding::WaitUntilNone(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(&mu_);
  while (count_.load(std::memory_order_acquire) != 0) {
    if (!none_.WaitUntil(&mu_, deadline)) return count_.load(std::memory_order_acquire) == 0;
  }
  return true;
}

void Host::Log(LocalOptions::Severity severity, const std::string& message) const {
  if (options.log) options.log(severity, message);
}

absl::Status Host::CheckTakesWork() const {
  if (!draining.load(std::memory_order_relaxed)) return absl::OkStatus();
  return absl::UnavailableError("the daemon is draining and takes no new work");
}

std::string_view EndReasonName(EndReason reason) {
  switch (reason) {
    case EndReason::kClosed:
      return "closed";
    case EndReason::kProcessGone:
      return "process_gone";
    case EndReason::kProtocol:
      return "protocol";
    case EndReason::kRevoked:
      return "revoked";
    case EndReason::kSlow:
      return "slow";
    case EndReason::kShutdown:
      return "shutdown";
  }
  return "unknown";
}

}  // namespace infercache::local
