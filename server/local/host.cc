#include "server/local/host.h"

#include "absl/strings/str_cat.h"

namespace infercache::local {

void Outstanding::Add(uint64_t n) {
  MutexLock lock(&mu_);
  count_ += n;
}

void Outstanding::Remove(uint64_t n) {
  MutexLock lock(&mu_);
  count_ -= n;
  // With the mutex held: once it is free, this may be gone.
  if (count_ == 0) none_.SignalAll();
}

bool Outstanding::WaitUntilNone(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(&mu_);
  while (count_ != 0) {
    if (!none_.WaitUntil(&mu_, deadline)) return count_ == 0;
  }
  return true;
}

void Host::Log(LocalOptions::Severity severity, const std::string& message) const {
  if (options.log) options.log(severity, message);
}

void Host::LogSome(Throttle& throttle, LocalOptions::Severity severity,
                   const std::string& message) const {
  const std::optional<uint64_t> untold = throttle.Take();
  if (!untold) return;
  Log(severity, *untold == 0
                    ? message
                    : absl::StrCat(message, " (and ", *untold, " since the last of these lines)"));
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
