// The daemon's own threads: signals and timers on one Asio context, reloads beside it.

#pragma once

#include <functional>
#include <memory>

namespace infercache::server {

// SIGTERM and SIGINT stop, once more and they stop at once; SIGHUP reloads. SIGPIPE is ignored from
// construction on. Also keeps systemd's watchdog fed, if there is one, as
// long as the daemon is well. One instance a process.
class SignalLoop {
 public:
  struct Handlers {
    // Called on the loop's thread: they must not wait for anything.
    std::function<void(int signal)> stop;        // first SIGTERM or SIGINT
    std::function<void(int signal)> stop_again;  // every later one
    // Called on a thread of its own, one call at a time: looking users up may ask the network, and
    // meanwhile the watchdog is to be fed and a daemon to be stopped.
    std::function<void()> reload;
    // Called on the loop's thread once a second: only if it is true the watchdog is fed.
    std::function<bool()> is_well;
  };

  explicit SignalLoop(Handlers handlers);
  // Joins the threads, a reload under way included; signals have their default effect again.
  ~SignalLoop();
  SignalLoop(const SignalLoop&) = delete;
  SignalLoop& operator=(const SignalLoop&) = delete;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace infercache::server
