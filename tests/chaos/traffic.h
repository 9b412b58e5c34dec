// Ordinary traffic beside an attack: one client that puts and gets, checks every byte, and notes
// how long anything took. Whatever a hostile client does, this must not notice.

#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "common/clock.h"
#include "tests/local/local_fixture.h"

namespace infercache::chaos {

class Traffic {
 public:
  // Runs from construction to destruction. `clock` outlives it; `keys` names its own objects.
  Traffic(local::Worker worker, const Clock& clock, std::string keys);
  // Stops.
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  void Stop();
  // Waits until `more` further rounds are done. False: it stands still.
  bool AwaitRounds(uint64_t more);

  uint64_t rounds() const { return rounds_; }
  uint64_t hits() const { return hits_; }
  uint64_t wrong() const { return wrong_; }
  uint64_t refused() const { return refused_; }
  std::chrono::milliseconds slowest() const { return std::chrono::milliseconds(slowest_ms_); }

 private:
  void Run();
  void Round(uint64_t round);

  local::Worker worker_;
  const Clock& clock_;
  const std::string keys_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> rounds_{0}, hits_{0}, wrong_{0}, refused_{0};
  std::atomic<int64_t> slowest_ms_{0};
  std::thread thread_;
};

}  // namespace infercache::chaos
