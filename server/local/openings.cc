#include "server/local/openings.h"

#include <algorithm>

namespace infercache::local {

void Openings::Add(uint32_t user, uint64_t connection) {
  MutexLock lock(&mu_);
  by_user_[user].insert(connection);
  users_.emplace(connection, user);
}

void Openings::Remove(uint64_t connection) {
  MutexLock lock(&mu_);
  RemoveLocked(connection);
}

void Openings::RemoveLocked(uint64_t connection) {
  const auto user = users_.find(connection);
  if (user == users_.end()) return;
  const auto theirs = by_user_.find(user->second);
  theirs->second.erase(connection);
  if (theirs->second.empty()) by_user_.erase(theirs);
  users_.erase(user);
}

std::optional<uint64_t> Openings::TakeWorst() {
  MutexLock lock(&mu_);
  const auto most =
      std::ranges::max_element(by_user_, {}, [](const auto& user) { return user.second.size(); });
  if (most == by_user_.end()) return std::nullopt;
  const uint64_t oldest = *most->second.begin();
  RemoveLocked(oldest);
  return oldest;
}

}  // namespace infercache::local
