#include "server/signals.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/thread_pool.hpp>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <thread>
#include <utility>

namespace infercache::server {

class SignalLoop::Impl {
 public:
  explicit Impl(Handlers handlers) : handlers_(std::move(handlers)) {
    std::signal(SIGPIPE, SIG_IGN);
    AwaitSignal();
    uint64_t watchdog_us = 0;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0) {
      has_watchdog_ = true;
      period_ = std::min(period_, std::chrono::microseconds(watchdog_us / 2));
    }
    AwaitCheck();
    thread_ = std::thread([this] { context_.run(); });
  }

  ~Impl() {
    context_.stop();
    thread_.join();
    reloads_.stop();
    reloads_.join();
  }

 private:
  void AwaitSignal() {
    signals_.async_wait([this](const asio::error_code& error, int signal) {
      if (error) return;
      OnSignal(signal);
      AwaitSignal();
    });
  }

  void OnSignal(int signal) {
    if (signal == SIGHUP) {
      asio::post(reloads_, handlers_.reload);
    } else if (std::exchange(stopping_, true)) {
      handlers_.stop_again(signal);
    } else {
      handlers_.stop(signal);
    }
  }

  void AwaitCheck() {
    check_.expires_after(period_);
    check_.async_wait([this](const asio::error_code& error) {
      if (error) return;
      if (handlers_.is_well() && has_watchdog_) sd_notify(0, "WATCHDOG=1");
      AwaitCheck();
    });
  }

  const Handlers handlers_;
  bool has_watchdog_ = false;
  std::chrono::microseconds period_ = std::chrono::seconds(1);
  bool stopping_ = false;  // only on the loop's thread
  asio::io_context context_{1};
  asio::signal_set signals_{context_, SIGTERM, SIGINT, SIGHUP};
  asio::steady_timer check_{context_};
  asio::thread_pool reloads_{1};
  std::thread thread_;
};

SignalLoop::SignalLoop(Handlers handlers) : impl_(std::make_unique<Impl>(std::move(handlers))) {}
SignalLoop::~SignalLoop() = default;

}  // namespace infercache::server
