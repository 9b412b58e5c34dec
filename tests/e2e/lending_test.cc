// What monitoring sees of tensors that two workers lend each other, each a process of its own, on
// the fake driver.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "tests/e2e/daemon_process.h"
#include "tests/e2e/http_get.h"
#include "tests/fake_cuda/fake_driver.h"
#include "tests/gpu/told.h"

namespace infercache::e2e {
namespace {

using fake_cuda::FakeDriver;
using gpu::Told;
using ::testing::HasSubstr;

class Lending : public ::testing::Test {
 protected:
  void SetUp() override {
    auto daemon = DaemonProcess::Start();
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }
  Told Start() const {
    return Told::Start(LENDING_WORKER_BINARY, daemon_->socket_path(), FakeDriver::Uuid(0));
  }
  std::string Metrics() const {
    const auto answer = Http(daemon_->http_address(), "GET", "/metrics");
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? answer->body : "";
  }
  void ExpectSays(const std::string& sample) const {
    EXPECT_THAT(Metrics(), HasSubstr("\ninfercache_" + sample + "\n"));
  }
  // What the daemon learns of a moment later.
  void ExpectWillSay(const std::string& sample) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (Metrics().find("\ninfercache_" + sample + "\n") == std::string::npos &&
           std::chrono::steady_clock::now() < deadline) {
    }
    ExpectSays(sample);
  }

  FakeDriver gpus_{1, uint64_t{64} << 20};
  std::unique_ptr<DaemonProcess> daemon_;
};

TEST_F(Lending, MetricsSayWhatIsLentAndWhoHasIt) {
  ExpectSays("lent_tensors 0");
  ExpectSays("borrows_total{result=\"miss\"} 0");
  Told owner = Start(), reader = Start();
  EXPECT_EQ(owner.Do("alloc legacy"), "ok");
  EXPECT_EQ(owner.Do("lend a"), "lent");
  EXPECT_EQ(owner.Do("lend b"), "lent");
  EXPECT_EQ(reader.Do("borrow none"), "miss");
  EXPECT_EQ(reader.Do("borrow a"), "hit");
  for (const char* sample :
       {"lent_tensors 2", "lent_bytes 128", "lent_allocations 1", "lent_readers 1",
        "lent_borrowed 1", "lent_mapped 1", "lent_waiting 0", "lends_total 2",
        "borrows_total{result=\"hit\"} 1", "borrows_total{result=\"miss\"} 1"}) {
    ExpectSays(sample);
  }
  EXPECT_EQ(reader.Do("alloc legacy"), "ok");
  EXPECT_EQ(reader.Do("lend a"), "ALREADY_EXISTS");
  ExpectSays("lending_refused_total{reason=\"exists\"} 1");
}

TEST_F(Lending, MetricsSayHowTakeBacksEnd) {
  Told owner = Start(), reader = Start();
  EXPECT_EQ(owner.Do("alloc vmm"), "ok");
  for (const char* key : {"a", "b", "c"}) {
    EXPECT_EQ(owner.Do(std::string("lend ") + key), "lent");
  }
  EXPECT_EQ(reader.Do("borrow a"), "hit");
  EXPECT_EQ(owner.Do("take_back b 30000"), "OK");
  ExpectSays("loans_ended_total{result=\"at_once\"} 1");
  // The owner gives up; the daemon does not.
  EXPECT_EQ(owner.Do("take_back a 50"), "DEADLINE_EXCEEDED");
  ExpectSays("lent_waiting 1");
  EXPECT_THAT(Metrics(), ::testing::Not(HasSubstr("\ninfercache_lent_longest_wait_seconds 0\n")));
  EXPECT_EQ(reader.Do("release"), "ok");
  ExpectWillSay("loans_ended_total{result=\"waited\"} 1");
  ExpectSays("lent_waiting 0");
  ExpectSays("lent_longest_wait_seconds 0");
  EXPECT_EQ(reader.Do("borrow c"), "hit");
  owner.Kill();
  ExpectWillSay("loans_ended_total{result=\"owner_gone\"} 1");
  for (const char* gone : {"lent_tensors 0", "lent_bytes 0", "lent_allocations 0", "lent_readers 0",
                           "lent_borrowed 0", "lent_mapped 0"}) {
    ExpectSays(gone);
  }
}

}  // namespace
}  // namespace infercache::e2e
