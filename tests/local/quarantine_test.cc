#include "server/local/quarantine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asio/executor_work_guard.hpp>
#include <atomic>
#include <thread>

#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

class QuarantineTest : public store::StoreFixture {
 protected:
  QuarantineTest() : ns_(Create("default")) {
    thread_ = std::thread([this] { context_.run(); });
  }
  ~QuarantineTest() override {
    quarantine_.Clear();
    work_.reset();
    thread_.join();
  }

  std::vector<Quarantined> Hold(std::string_view key, std::string_view value) {
    std::vector<Quarantined> held;
    held.emplace_back(books_, "default", ns_.Reserve(key, value));
    return held;
  }

  store::NamespaceVerbs ns_;
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
  QuarantineBooks books_;
  Closer closer_;
  Quarantine quarantine_{context_, closer_};
  std::thread thread_;
};

// Where the kernel has no pidfd to offer and the daemon ended the session, the client's own end of
// the connection is the witness.
TEST_F(QuarantineTest, AConnectionIsAWitnessOnceThePeerCloses) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd client(ends[1]);
  quarantine_.Hold({.process = {}, .connection = UniqueFd(ends[0])}, Hold("key", "value"));
  EXPECT_EQ(books_.count(), 1u);
  EXPECT_EQ(books_.AgedIn("default").total(), 5u);
  // It may go on sending: that shows that it lives.
  const std::string noise(100'000, 'n');
  size_t sent = 0;
  EXPECT_TRUE(Eventually([&] {
    const ssize_t n = send(client.get(), noise.data(), noise.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<size_t>(n);
    return sent > 1'000'000;
  }));
  EXPECT_EQ(books_.count(), 1u);
  EXPECT_GT(ns_->Stats().quarantined_bytes, 0u);
  client.Reset();
  EXPECT_TRUE(Eventually([&] { return books_.count() == 0; }));
  EXPECT_TRUE(Eventually([&] { return ns_->Stats().used_bytes == 0; }));  // freed after that
}

// It was read until it was empty, which a peer that goes on sending can put off for ever.
TEST_F(QuarantineTest, AWitnessThatNeverStopsSendingIsReadInTurns) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd client(ends[1]);
  const std::string noise(4096, 'n');
  int left = 0;
  while (send(client.get(), noise.data(), noise.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    left += static_cast<int>(noise.size());
  }
  constexpr int kMostInATurn = 64 * 1024;
  ASSERT_GT(left, 2 * kMostInATurn);

  asio::io_context context;  // run by hand, one handler after the other
  Closer closer;
  Quarantine quarantine(context, closer);
  const int witness = ends[0];
  quarantine.Hold({.process = {}, .connection = UniqueFd(witness)}, Hold("key", "value"));
  while (left > 0) {
    ASSERT_EQ(context.run_one(), 1u);
    int now = 0;
    ASSERT_EQ(ioctl(witness, FIONREAD, &now), 0);
    ASSERT_LE(left - now, kMostInATurn);
    left = now;
  }
  EXPECT_EQ(books_.count(), 1u);
  client.Reset();
  context.run();
  EXPECT_EQ(books_.count(), 0u);
}

// A pipe of which the other end is closed is as readable as the pidfd of a process that is gone.
TEST_F(QuarantineTest, WithTwoWitnessesBothHaveToTell) {
  int process[2], ends[2];
  ASSERT_EQ(pipe2(process, O_CLOEXEC), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd lives(process[1]), client(ends[1]);
  std::atomic<int> outlived = 0;
  quarantine_.Hold({.process = UniqueFd(process[0]),
                    .connection = UniqueFd(ends[0]),
                    .outlived = [&outlived] { ++outlived; }},
                   Hold("key", "value"));
  EXPECT_EQ(outlived, 0);
  lives.Reset();
  EXPECT_TRUE(Eventually([&] { return outlived == 1; }));
  EXPECT_EQ(books_.count(), 1u);
  ASSERT_EQ(send(client.get(), "noise", 5, MSG_NOSIGNAL), 5);
  int unread = 5;
  EXPECT_TRUE(
      Eventually([&] { return ioctl(client.get(), SIOCOUTQ, &unread) == 0 && unread == 0; }));
  EXPECT_EQ(books_.count(), 1u);
  client.Reset();
  EXPECT_TRUE(Eventually([&] { return books_.count() == 0; }));
  EXPECT_EQ(outlived, 1) << "said once";
}

TEST_F(QuarantineTest, AConnectionThatIsClosedFirstDoesNotDoAlone) {
  int process[2], ends[2];
  ASSERT_EQ(pipe2(process, O_CLOEXEC), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd lives(process[1]);
  UniqueFd(ends[1]).Reset();
  bool outlived = false;
  asio::io_context context;  // run by hand
  Quarantine quarantine(context, closer_);
  quarantine.Hold({.process = UniqueFd(process[0]),
                   .connection = UniqueFd(ends[0]),
                   .outlived = [&outlived] { outlived = true; }},
                  Hold("key", "value"));
  context.poll();
  EXPECT_EQ(books_.count(), 1u);
  lives.Reset();
  context.run();
  EXPECT_EQ(books_.count(), 0u);
  EXPECT_FALSE(outlived);
}

TEST_F(QuarantineTest, WithoutAWitnessBytesWaitForTheEnd) {
  quarantine_.Hold({}, Hold("key", "value"));
  EXPECT_EQ(books_.count(), 1u);
  quarantine_.Clear();
  EXPECT_TRUE(Eventually([&] { return books_.count() == 0; }));
  EXPECT_TRUE(Eventually([&] { return ns_->Stats().used_bytes == 0; }));  // freed after that
}

TEST_F(QuarantineTest, DestructionFreesAndIsCounted) {
  {
    std::vector<Quarantined> held = Hold("a", "1");
    held.emplace_back(books_, "other", ns_.Reserve("b", "22"));
    const std::vector<Quarantined> moved = std::move(held);
    EXPECT_EQ(books_.count(), 2u);
    EXPECT_EQ(books_.Aged().below_1s, 3u);
    EXPECT_EQ(books_.AgedIn("other").total(), 2u);
  }
  EXPECT_EQ(books_.count(), 0u);
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

}  // namespace
}  // namespace infercache::local
