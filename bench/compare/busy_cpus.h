// Keeps every CPU awake without taking it from anyone: one spinning thread per CPU in the
// scheduling class SCHED_IDLE, which runs only where nothing else wants to. A CPU that never halts
// answers a wake-up at once; an idle virtual one takes tens of microseconds.

#pragma once

#include <atomic>
#include <thread>
#include <vector>

namespace infercache::bench {

// Busy from construction to destruction.
class BusyCpus {
 public:
  BusyCpus();
  ~BusyCpus();
  BusyCpus(const BusyCpus&) = delete;
  BusyCpus& operator=(const BusyCpus&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace infercache::bench
