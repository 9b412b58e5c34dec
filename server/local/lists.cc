#include "server/local/lists.h"

#include <algorithm>
#include <utility>

namespace infercache::local {

void Lists::Post(uint32_t user, uint64_t session, std::function<void()> list) {
  {
    MutexLock lock(&mu_);
    by_user_[user].push_back({session, std::move(list)});
    // What was dropped has left a call behind.
    if (++waiting_ <= calls_) return;
    ++calls_;
  }
  background_.Post([this] { RunNext(); });
}

void Lists::Drop(uint32_t user, uint64_t session) {
  std::function<void()> dropped;
  MutexLock lock(&mu_);
  const auto theirs = by_user_.find(user);
  if (theirs == by_user_.end()) return;
  const auto it = std::ranges::find(theirs->second, session, &Waiting::session);
  if (it == theirs->second.end()) return;
  dropped = std::move(it->list);
  theirs->second.erase(it);
  if (theirs->second.empty()) by_user_.erase(theirs);
  --waiting_;
}

size_t Lists::size() const {
  MutexLock lock(&mu_);
  return waiting_;
}

void Lists::RunNext() {
  std::function<void()> list;
  {
    MutexLock lock(&mu_);
    --calls_;
    if (by_user_.empty()) return;
    auto next = by_user_.upper_bound(last_user_);
    if (next == by_user_.end()) next = by_user_.begin();
    last_user_ = next->first;
    list = std::move(next->second.front().list);
    next->second.pop_front();
    if (next->second.empty()) by_user_.erase(next);
    --waiting_;
  }
  list();
}

}  // namespace infercache::local
