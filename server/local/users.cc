#include "server/local/users.h"

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache::local {

absl::Status Users::AddSession(uint32_t user) {
  const uint64_t most =
      max_sessions_ < kFewSessions ? max_sessions_ : uint64_t{max_sessions_} * 3 / 4;
  Account has;
  uint64_t all;
  {
    MutexLock lock(&mu_);
    Account& account = accounts_[user];
    has = account;
    all = quarantined_;
    const bool too_many = has.sessions >= most ||
                          has.quarantined >= kMaxQuarantinedSessionsPerUser ||
                          (has.quarantined > 0 && all >= kMaxQuarantinedSessions);
    if (!too_many) {
      ++account.sessions;
      return absl::OkStatus();
    }
  }
  if (has.sessions >= most) {
    return absl::ResourceExhaustedError(absl::StrCat("uid ", user, " has ", has.sessions,
                                                     " sessions; the limit of one user is ", most,
                                                     " of ", max_sessions_));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("uid ", user, " has ", has.quarantined, " of ", all,
                   " sessions that are over but whose processes may still write; the limit is ",
                   kMaxQuarantinedSessionsPerUser, " of one user, ", kMaxQuarantinedSessions,
                   " of all: end those processes"));
}

void Users::DropIfEmpty(std::map<uint32_t, Account>::iterator it) {
  const Account& has = it->second;
  if (has.sessions + has.quarantined + has.grown_slots == 0) accounts_.erase(it);
}

void Users::RemoveSession(uint32_t user) {
  MutexLock lock(&mu_);
  const auto it = accounts_.find(user);
  --it->second.sessions;
  DropIfEmpty(it);
}

absl::Status Users::AddSlots(uint32_t user, uint64_t slots) {
  uint64_t has = 0;
  {
    MutexLock lock(&mu_);
    const auto it = accounts_.try_emplace(user).first;
    has = it->second.grown_slots;
    if (slots <= kMaxGrownPinSlotsPerUser - has) {
      it->second.grown_slots += slots;
      return absl::OkStatus();
    }
    DropIfEmpty(it);
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("uid ", user, " has ", has,
                   " pin slots more than its sessions began with; the "
                   "limit of one user is ",
                   kMaxGrownPinSlotsPerUser));
}

void Users::RemoveSlots(uint32_t user, uint64_t slots) {
  MutexLock lock(&mu_);
  const auto it = accounts_.find(user);
  if (it == accounts_.end()) return;
  it->second.grown_slots -= slots;
  DropIfEmpty(it);
}

void Users::AddQuarantined(uint32_t user) {
  MutexLock lock(&mu_);
  ++accounts_[user].quarantined;
  ++quarantined_;
}

void Users::RemoveQuarantined(uint32_t user) {
  MutexLock lock(&mu_);
  const auto it = accounts_.find(user);
  --it->second.quarantined;
  --quarantined_;
  DropIfEmpty(it);
}

}  // namespace infercache::local
