// What a client makes of what a daemon says, or does not, of the tensors that it lends and borrows.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <string_view>
#include <vector>

#include "client/src/own_export.h"
#include "tests/gpu/legacy_buffer.h"
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

TEST_F(LoanBookTest, ALendSaysWhetherTheDaemonMayHaveHeardOfIt) {
  std::function<void(const v1::LocalRequest&, FakeLocalDaemon::Answer&)> says;
  Start([&](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    if (request.has_lend()) says(request, answer);
    if (request.has_take_back()) answer.response.mutable_taken_back()->add_items();
  });
  says = [](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    v1::LentItem& item = *answer.response.mutable_lent()->add_items();
    item.set_code(static_cast<uint32_t>(absl::StatusCode::kAlreadyExists));
    EXPECT_EQ(request.lend().items_size(), 1);
  };
  const LendResult refused = Lend("key");
  EXPECT_TRUE(absl::IsAlreadyExists(refused.status)) << refused.status;
  EXPECT_FALSE(refused.may_be_lent);
  says = [](const v1::LocalRequest&, FakeLocalDaemon::Answer& answer) {
    answer.response.set_code(static_cast<uint32_t>(absl::StatusCode::kUnavailable));
    answer.response.clear_body();
  };
  const LendResult drains = Lend("key");
  EXPECT_TRUE(absl::IsUnavailable(drains.status)) << drains.status;
  EXPECT_FALSE(drains.may_be_lent);
  if (is_fake()) {
    fake().StickStreams();
    lent_->CopyTo(lent_->address() + kSize, kSize);
    const LendResult not_written = Lend("key", kInAMoment);
    EXPECT_TRUE(absl::IsDeadlineExceeded(not_written.status)) << not_written.status;
    EXPECT_FALSE(not_written.may_be_lent);
    fake().FreeStreams();
  }
  says = [](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    SayLent(request, 1, answer);
  };
  EXPECT_TRUE(Lend("key").may_be_lent);
  says = [](const v1::LocalRequest&, FakeLocalDaemon::Answer& answer) { answer.times = 0; };
  const LendResult unanswered = Lend("other", kInAMoment);
  EXPECT_TRUE(absl::IsDeadlineExceeded(unanswered.status)) << unanswered.status;
  EXPECT_FALSE(unanswered.lent);
  EXPECT_TRUE(unanswered.may_be_lent);
  EXPECT_TRUE(client_->TakeBack("other").ok()) << "it is known, to be asked for";
  says = [](const v1::LocalRequest&, FakeLocalDaemon::Answer& answer) {
    answer.response.mutable_lent();  // of no item
  };
  const LendResult nonsense = Lend("third");
  EXPECT_EQ(nonsense.status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(nonsense.may_be_lent);
}

// Everybody waited for whoever was first, for as long as that one would.
TEST_F(LoanBookTest, NobodyWaitsForAnothersAnswerBeyondItsDeadline) {
  std::atomic<bool> asked_to_lend = false, asked_to_map = false;
  Start([&](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    if (request.has_lend()) {
      answer.times = 0;
      asked_to_lend = true;
    }
    if (request.has_borrow()) {
      const std::string& key = request.borrow().keys(0);
      answer.close = key == "close";
      SayBorrowed(1, key == "key" ? kAllocation : kAllocation + 1, answer);
    }
    if (request.has_map_lent() && request.map_lent().allocation() == kAllocation) {
      answer.times = 0;
      asked_to_map = true;
    } else if (request.has_map_lent()) {
      SayMemory(kAllocation + 1, answer);
    }
  });
  std::future<LendResult> lends = std::async(std::launch::async, [this] { return Lend("key"); });
  EXPECT_TRUE(local::Eventually([&] { return asked_to_lend.load(); }));
  const LendResult second = Lend("other", kInAMoment);
  EXPECT_TRUE(absl::IsDeadlineExceeded(second.status)) << second.status;
  EXPECT_FALSE(second.may_be_lent);
  std::future<DeviceGetResult> borrows =
      std::async(std::launch::async, [this] { return client_->Borrow("key"); });
  EXPECT_TRUE(local::Eventually([&] { return asked_to_map.load(); }));
  const DeviceGetResult same = client_->Borrow("key", kInAMoment);
  EXPECT_TRUE(absl::IsDeadlineExceeded(same.status)) << same.status;
  // Nor is another allocation waited for.
  const DeviceGetResult other = client_->Borrow("other");
  EXPECT_TRUE(other.hit()) << other.status;
  EXPECT_EQ(lends.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  EXPECT_EQ(borrows.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  (void)client_->Borrow("close");
  EXPECT_TRUE(lends.get().may_be_lent);
  EXPECT_FALSE(borrows.get().hit());
}

// The second one of those that took the same tensor back was not told.
TEST_F(LoanBookTest, WhatIsFreeIsSoForAllWhoTakeItBack) {
  std::atomic<int> asked = 0;
  Start([&](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    if (request.has_lend()) SayLent(request, 1, answer);
    if (!request.has_take_back()) return;
    for (int i = 0; i < request.take_back().keys_size(); ++i) {
      v1::TakenBackItem& item = *answer.response.mutable_taken_back()->add_items();
      item.set_lent(true);
      item.set_loan(1);
    }
    if (++asked == 1) return;
    v1::LocalResponse event;
    event.mutable_lent_events()->add_free(1);
    answer.raw = local::RawClient::EncodeFrame(answer.response.SerializeAsString()) +
                 local::RawClient::EncodeFrame(event.SerializeAsString());
  });
  ASSERT_TRUE(Lend("key").lent);
  // By two threads.
  std::future<absl::Status> first =
      std::async(std::launch::async, [this] { return client_->TakeBack("key"); });
  EXPECT_TRUE(local::Eventually([&] { return asked == 1; }));
  const absl::Status second = client_->TakeBack("key");
  EXPECT_TRUE(second.ok()) << second;
  const absl::Status other = first.get();
  EXPECT_TRUE(other.ok()) << other;
  // Twice by one.
  ASSERT_TRUE(Lend("key").lent);
  const std::vector<std::string_view> keys = {"key", "key"};
  for (const absl::Status& one : client_->TakeBack(keys)) EXPECT_TRUE(one.ok()) << one;
}

// Other clients of the process opened its handle, which CUDA does not do, and never tried it again.
TEST_F(LoanBookTest, WhatIsLentAgainWhileTheLastOfItIsTakenBackIsKnownToTheProcess) {
  std::string handle;
  v1::LocalResponse late;
  std::atomic<bool> asked_again = false;
  Start([&](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    if (request.has_lend() && request.lend().has_memory()) {
      handle = request.lend().memory().handle();
      SayLent(request, 1, answer);
    } else if (request.has_lend()) {
      EXPECT_EQ(request.lend().allocation(), kAllocation);
      SayLent(request, 2, answer);
      late = answer.response;
      answer.times = 0;
      asked_again = true;
    }
    if (!request.has_take_back()) return;
    answer.response.mutable_taken_back()->add_items();
    if (late.id() == 0) return;
    answer.raw = local::RawClient::EncodeFrame(late.SerializeAsString()) +
                 local::RawClient::EncodeFrame(answer.response.SerializeAsString());
    late.Clear();
  });
  const LegacyBuffer buffer(context_);
  const auto lend = [&](std::string_view key) {
    return client_->Lend({.key = key, .source = buffer.address(), .size_bytes = kSize}, nullptr);
  };
  ASSERT_TRUE(lend("first").lent);
  std::future<LendResult> second =
      std::async(std::launch::async, [&lend] { return lend("second"); });
  EXPECT_TRUE(local::Eventually([&] { return asked_again.load(); }));
  EXPECT_TRUE(client_->TakeBack("first").ok());
  ASSERT_TRUE(second.get().lent);
  ASSERT_FALSE(handle.empty());
  EXPECT_TRUE(OwnExport::Find(handle).has_value());
  EXPECT_TRUE(client_->TakeBack("second").ok());
  EXPECT_FALSE(OwnExport::Find(handle).has_value());
}

}  // namespace
}  // namespace infercache::gpu
