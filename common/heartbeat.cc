#include "common/heartbeat.h"

#include <utility>

namespace infercache {

std::shared_ptr<Heartbeat> Heartbeats::Add(std::string name) {
  auto added = std::make_shared<Heartbeat>(std::move(name));
  MutexLock lock(&mu_);
  std::erase_if(all_, [](const auto& one) { return one.expired(); });
  all_.push_back(added);
  return added;
}

std::vector<std::string> Heartbeats::Silent(Heartbeat::Clock::duration silence,
                                            Heartbeat::Clock::time_point now) const {
  std::vector<std::string> names;
  MutexLock lock(&mu_);
  for (const std::weak_ptr<Heartbeat>& one : all_) {
    const auto heartbeat = one.lock();
    if (heartbeat != nullptr && now - heartbeat->last() > silence) {
      names.push_back(heartbeat->name());
    }
  }
  return names;
}

}  // namespace infercache
