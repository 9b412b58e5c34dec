// The process of a worker that is told what to do (tests/gpu/lending_worker_main.cc).

#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <utility>

#include "tests/chaos/worker_process.h"

namespace infercache::gpu {

class Told {
 public:
  // Lends and borrows through the daemon at `socket`.
  static Told Start(const std::string& program, const std::string& socket,
                    const std::string& device) {
    auto process = chaos::WorkerProcess::Start(program, {socket, device});
    EXPECT_TRUE(process.ok()) << process.status();
    return Of(*std::move(process));
  }
  // One that was started otherwise.
  static Told Of(std::unique_ptr<chaos::WorkerProcess> process) {
    Told worker(std::move(process));
    EXPECT_EQ(worker.Answer(), "ready");
    return worker;
  }

  std::string Do(const std::string& line) {
    Begin(line);
    return Answer();
  }
  void Begin(const std::string& line) { EXPECT_TRUE(process_->Send(line + "\n").ok()); }
  std::string Answer() {
    const auto answer = process_->ReadLine();
    return answer.ok() ? *answer : std::string(answer.status().message());
  }
  // Returns when the kernel said so.
  std::chrono::steady_clock::time_point Kill() {
    process_->Signal(SIGKILL);
    return process_->AwaitDeath();
  }
  // Lets it end as a worker does.
  void End() {
    process_->EndInput();
    (void)process_->AwaitDeath();
  }

 private:
  explicit Told(std::unique_ptr<chaos::WorkerProcess> process) : process_(std::move(process)) {}

  std::unique_ptr<chaos::WorkerProcess> process_;
};

}  // namespace infercache::gpu
