// Connections that have no session yet, by user: whom to drop when there are too many.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace infercache::local {

// Thread-safe. Connections are numbered in order of arrival.
class Openings {
 public:
  void Add(uint32_t user, uint64_t connection) ABSL_LOCKS_EXCLUDED(mu_);
  // It has a session, or is over. Also for one that is not there.
  void Remove(uint64_t connection) ABSL_LOCKS_EXCLUDED(mu_);
  // Removes the oldest one of the user who has most of them: a user that floods the daemon loses
  // connections of its own. Nullopt: there is none.
  std::optional<uint64_t> TakeWorst() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void RemoveLocked(uint64_t connection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  std::map<uint32_t, std::set<uint64_t>> by_user_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<uint64_t, uint32_t> users_ ABSL_GUARDED_BY(mu_);  // by connection
};

}  // namespace infercache::local
