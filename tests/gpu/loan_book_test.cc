// What a client makes of what a daemon says, or does not, of the tensors that it lends and borrows.

#include <gtest/gtest.h>

#include <atomic>

#include "tests/gpu/scripted_daemon.h"

namespace infercache::gpu {
namespace {

using LoanBookTest = ScriptedDaemon;

constexpr CallOptions kInAMoment = {.deadline = absl::Milliseconds(50)};

// What was kept of the first daemon's loan was what was taken back, from the dead.
TEST_F(LoanBookTest, WhatMayBeLentIsTakenBackFromTheDaemonThatMayKnow) {
  std::atomic<int> daemons = 0, asked_to_lend = 0, took_back = 0;
  Start([&](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    if (request.has_hello()) ++daemons;
    if (request.has_lend()) {
      asked_to_lend = daemons.load();
      SayLent(request, 1, answer);
      if (daemons == 2) answer.times = 0;
    }
    if (request.has_borrow()) answer.close = true;
    if (request.has_take_back()) {
      took_back = daemons.load();
      answer.response.mutable_taken_back()->add_items();
    }
  });
  const LendResult lent = Lend("key");
  ASSERT_TRUE(lent.lent) << lent.status;
  EXPECT_FALSE(client_->Borrow("key").status.ok()) << "it goes";
  EXPECT_TRUE(
      local::Eventually([&] { return !Lend("key", kInAMoment).lent && asked_to_lend == 2; }));
  const absl::Status taken = client_->TakeBack("key");
  EXPECT_TRUE(taken.ok()) << taken;
  EXPECT_EQ(took_back, 2);
}

}  // namespace
}  // namespace infercache::gpu
