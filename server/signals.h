// The daemon's own thread: signals and timers on one Asio context.

#pragma once

#include <functional>
#include <memory>

namespace infercache::server {

// SIGTERM and SIGINT stop, once more and they stop at once; SIGHUP reloads. SIGPIPE is ignored from
// construction on. Also keeps systemd's watchdog fed, if there is one. One instance a process.
class SignalLoop {
 public:
  // Called on the loop's thread.
  struct Handlers {
    std::function<void(int signal)> stop;        // first SIGTERM or SIGINT
    std::function<void(int signal)> stop_again;  // every later one
    std::function<void()> reload;
  };

  explicit SignalLoop(Handlers handlers);
  // Joins the thread; signals have their default effect again.
  ~SignalLoop();
  SignalLoop(const SignalLoop&) = delete;
  SignalLoop& operator=(const SignalLoop&) = delete;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace infercache::server
