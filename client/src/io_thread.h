// The one thread that a process has for all its local clients: it sees a daemon die, reconnects,
// reads answers that nobody waits for, and keeps their deadlines. It sleeps while none of that is
// to be done, and a hit has nothing to do with it.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace infercache {

// Thread-safe. Started for the first client of a process, joined with the last.
class IoThread {
 public:
  using Clock = std::chrono::steady_clock;

  // What the thread looks after. Its methods are called on the thread, one at a time for all
  // charges, without the thread's lock; they must not wait for anything.
  class Charge {
   public:
    virtual ~Charge() = default;
    // `events` (EPOLLIN, ...) of a descriptor that is watched for this charge, or was just now.
    virtual void OnEvents(int fd, uint32_t events) = 0;
    // Called after events and at the time it named last. Returns when it is to be called next.
    virtual Clock::time_point OnTimer(Clock::time_point now) = 0;
    // Some milliseconds of work that can wait, done while there is nothing else. False = done.
    virtual bool OnIdle() = 0;
  };

  // This process's thread. RESOURCE_EXHAUSTED: out of descriptors or threads.
  static absl::StatusOr<std::shared_ptr<IoThread>> Acquire();
  ~IoThread();
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  // OnTimer is called soon.
  void Add(Charge* charge) ABSL_LOCKS_EXCLUDED(mu_);
  // The charge is not called any more once this returns; its descriptors are watched no longer.
  // Not to be called on the thread.
  void Remove(Charge* charge) ABSL_LOCKS_EXCLUDED(mu_, calls_mu_);

  // EPOLLHUP and EPOLLERR are always among the events. False: out of memory or watches.
  bool Watch(int fd, uint32_t events, Charge* charge) ABSL_LOCKS_EXCLUDED(mu_);
  void ChangeWatch(int fd, uint32_t events);
  void Unwatch(int fd) ABSL_LOCKS_EXCLUDED(mu_);

  // Sees to it that OnTimer is called for every charge by then, and OnIdle afterwards.
  void WakeBy(Clock::time_point when);

 private:
  IoThread(UniqueFd epoll, UniqueFd wake);

  void Run();
  // Returns when to wake up next.
  Clock::time_point CallTimers() ABSL_LOCKS_EXCLUDED(mu_, calls_mu_);
  bool CallIdle() ABSL_LOCKS_EXCLUDED(mu_, calls_mu_);
  void Dispatch(int fd, uint32_t events) ABSL_LOCKS_EXCLUDED(mu_, calls_mu_);
  std::vector<Charge*> Charges() const ABSL_LOCKS_EXCLUDED(mu_);
  bool IsCharge(Charge* charge) const ABSL_LOCKS_EXCLUDED(mu_);

  const UniqueFd epoll_;
  const UniqueFd wake_;
  // When the thread wakes up by itself, in the clock's ticks; the smallest number while it is up.
  std::atomic<Clock::rep> wakes_at_{0};
  std::atomic<bool> stop_{false};

  // Held while a charge is called. Taken before mu_.
  Mutex calls_mu_;
  mutable Mutex mu_;
  std::set<Charge*> charges_ ABSL_GUARDED_BY(mu_);
  std::map<int, Charge*> watched_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace infercache
