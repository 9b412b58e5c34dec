#include "client/cli/parallel.h"

#include <atomic>
#include <csignal>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace infercache::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);

// A signal handler reaches nothing but statics.
std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int signal) {
  g_interrupted.store(true, std::memory_order_relaxed);
  std::signal(signal, SIG_DFL);
}

}  // namespace

void RunThreads(int threads, const std::function<void(int)>& work,
                const std::function<void()>& tick) {
  absl::Mutex mu;
  int running = threads;  // guarded by mu
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) {
    pool.emplace_back([&mu, &running, &work, i] {
      work(i);
      const absl::MutexLock lock(&mu);
      --running;
    });
  }
  const auto done = [&running] { return running == 0; };
  mu.Lock();
  while (!mu.AwaitWithTimeout(absl::Condition(&done), kTick)) {
    mu.Unlock();
    tick();
    mu.Lock();
  }
  mu.Unlock();
  for (auto& thread : pool) thread.join();
}

InterruptGuard::InterruptGuard() {
  g_interrupted.store(false, std::memory_order_relaxed);
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::interrupted() const { return g_interrupted.load(std::memory_order_relaxed); }

}  // namespace infercache::cli
