// Threads of a load generator, and how a user stops them early.

#pragma once

#include <functional>

namespace infercache::cli {

// Calls work(0) .. work(threads - 1), each in a thread of its own, and returns when all have. While
// it waits it calls tick() about ten times a second, in the caller's thread.
void RunThreads(int threads, const std::function<void(int)>& work,
                const std::function<void()>& tick);

// While one lives, SIGINT and SIGTERM do not end the process but make interrupted() true, so that
// what was made at the daemon can be cleaned up; a second signal ends it. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  // Any thread.
  bool interrupted() const;
};

}  // namespace infercache::cli
