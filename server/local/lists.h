// Walks over whole indexes, of millions of keys, for sessions that list them: two at a time, users
// in turn, so that no user waits for all that another one has asked for.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "common/background.h"
#include "common/mutex.h"

namespace infercache::local {

// Thread-safe. Destruction drops what has not begun and waits for what has.
class Lists {
 public:
  // REQUIRES: the session has none that waits, so that there are no more than sessions.
  void Post(uint32_t user, uint64_t session, std::function<void()> list) ABSL_LOCKS_EXCLUDED(mu_);
  // The session is over: nobody wants what it asked for, unless that has begun.
  void Drop(uint32_t user, uint64_t session) ABSL_LOCKS_EXCLUDED(mu_);

  // Waiting.
  size_t size() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    uint64_t session;
    std::function<void()> list;
  };
  void RunNext() ABSL_LOCKS_EXCLUDED(mu_);

  mutable Mutex mu_;
  std::map<uint32_t, std::deque<Waiting>> by_user_ ABSL_GUARDED_BY(mu_);
  uint32_t last_user_ ABSL_GUARDED_BY(mu_) = 0;
  size_t waiting_ ABSL_GUARDED_BY(mu_) = 0;
  size_t calls_ ABSL_GUARDED_BY(mu_) = 0;  // of RunNext, to come
  Background background_{2};
};

}  // namespace infercache::local
