#include "bench/compare/busy_cpus.h"

#include <pthread.h>
#include <sched.h>

#include <cstring>
#include <string>

#include "bench/compare/die.h"

namespace infercache::bench {

BusyCpus::BusyCpus() {
  const unsigned count = std::thread::hardware_concurrency();
  for (unsigned i = 0; i < count; ++i) {
    threads_.emplace_back([this] {
      const sched_param parameters = {};
      if (const int error = pthread_setschedparam(pthread_self(), SCHED_IDLE, &parameters)) {
        Die(std::string("SCHED_IDLE: ") + std::strerror(error));
      }
      while (!stop_.load(std::memory_order_relaxed)) {
      }
    });
  }
}

BusyCpus::~BusyCpus() {
  stop_.store(true, std::memory_order_relaxed);
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace infercache::bench
