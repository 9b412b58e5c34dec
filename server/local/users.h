// What each user of the lane has open or left behind, so that one of them cannot take it all.

#pragma once

#include <cstdint>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/mutex.h"

namespace infercache::local {

// Thread-safe; outlives what is counted.
class Users {
 public:
  // Nobody else is shut out where there are so few sessions that a share means nothing.
  static constexpr uint32_t kFewSessions = 8;

  explicit Users(uint32_t max_sessions) : max_sessions_(max_sessions) {}

  // Counts a session of `user`, until RemoveSession. RESOURCE_EXHAUSTED names the limit: three
  // quarters of max_sessions, unless those are fewer than kFewSessions, or what common/limits.h
  // says of sessions in quarantine. Those that are open already may still go there.
  absl::Status AddSession(uint32_t user) ABSL_LOCKS_EXCLUDED(mu_);
  void RemoveSession(uint32_t user) ABSL_LOCKS_EXCLUDED(mu_);
  // More pin slots for the sessions of `user`, until RemoveSlots. RESOURCE_EXHAUSTED names the
  // limit.
  absl::Status AddSlots(uint32_t user, uint64_t slots) ABSL_LOCKS_EXCLUDED(mu_);
  void RemoveSlots(uint32_t user, uint64_t slots) ABSL_LOCKS_EXCLUDED(mu_);
  void AddQuarantined(uint32_t user) ABSL_LOCKS_EXCLUDED(mu_);
  void RemoveQuarantined(uint32_t user) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Account {
    uint64_t sessions = 0, quarantined = 0, grown_slots = 0;
  };

  void DropIfEmpty(std::map<uint32_t, Account>::iterator it) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint32_t max_sessions_;
  Mutex mu_;
  std::map<uint32_t, Account> accounts_ ABSL_GUARDED_BY(mu_);
  uint64_t quarantined_ ABSL_GUARDED_BY(mu_) = 0;  // of all
};

// A session of `user` in quarantine, as long as this lives.
class QuarantinedSession {
 public:
  QuarantinedSession(Users& users, uint32_t user) : users_(users), user_(user) {
    users_.AddQuarantined(user_);
  }
  ~QuarantinedSession() { users_.RemoveQuarantined(user_); }
  QuarantinedSession(const QuarantinedSession&) = delete;
  QuarantinedSession& operator=(const QuarantinedSession&) = delete;

 private:
  Users& users_;
  const uint32_t user_;
};

}  // namespace infercache::local
