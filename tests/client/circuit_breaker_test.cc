#include "client/src/circuit_breaker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace infercache {
namespace {

using State = CircuitBreaker::State;
using Admission = CircuitBreaker::Admission;

class CircuitBreakerTest : public ::testing::Test {
 protected:
  void Fail(int times) {
    for (int i = 0; i < times; ++i) breaker_.OnUnreachable();
  }
  void OpenIt() {
    Fail(3);
    ASSERT_EQ(breaker_.state(), State::kOpen);
  }

  absl::Time now_ = absl::UnixEpoch();
  CircuitBreaker breaker_{3, absl::Seconds(1), [this] { return now_; }};
};

TEST_F(CircuitBreakerTest, StaysClosedBelowTheThreshold) {
  Fail(2);
  EXPECT_EQ(breaker_.Admit(), Admission::kAllow);
  breaker_.OnAnswered();
  Fail(2);
  EXPECT_EQ(breaker_.Admit(), Admission::kAllow) << "only failures in a row count";
}

TEST_F(CircuitBreakerTest, OpensAtTheThreshold) {
  Fail(3);
  EXPECT_EQ(breaker_.state(), State::kOpen);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuse);
}

TEST_F(CircuitBreakerTest, AsksForOneProbePerInterval) {
  OpenIt();
  now_ += absl::Milliseconds(999);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuse);
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuseAndProbe);
  EXPECT_EQ(breaker_.state(), State::kHalfOpen);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuse);
  now_ += absl::Seconds(10);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuse) << "the first probe is still under way";
}

TEST_F(CircuitBreakerTest, AFailedProbeWaitsAnotherInterval) {
  OpenIt();
  now_ += absl::Seconds(1);
  ASSERT_EQ(breaker_.Admit(), Admission::kRefuseAndProbe);
  now_ += absl::Seconds(2);
  breaker_.OnProbe(false);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuse);
  now_ += absl::Seconds(1);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuseAndProbe);
}

TEST_F(CircuitBreakerTest, AnAnsweredProbeCloses) {
  OpenIt();
  now_ += absl::Seconds(1);
  ASSERT_EQ(breaker_.Admit(), Admission::kRefuseAndProbe);
  breaker_.OnProbe(true);
  EXPECT_EQ(breaker_.Admit(), Admission::kAllow);
  Fail(2);
  EXPECT_EQ(breaker_.Admit(), Admission::kAllow) << "the count starts anew";
}

TEST_F(CircuitBreakerTest, LateFailuresDoNotDelayTheProbe) {
  OpenIt();
  now_ += absl::Milliseconds(900);
  Fail(5);
  now_ += absl::Milliseconds(100);
  EXPECT_EQ(breaker_.Admit(), Admission::kRefuseAndProbe);
}

TEST_F(CircuitBreakerTest, ALateAnswerClosesAndAFailedProbeThenChangesNothing) {
  OpenIt();
  now_ += absl::Seconds(1);
  ASSERT_EQ(breaker_.Admit(), Admission::kRefuseAndProbe);
  breaker_.OnAnswered();
  breaker_.OnProbe(false);
  EXPECT_EQ(breaker_.state(), State::kClosed);
}

TEST_F(CircuitBreakerTest, ZeroFailuresNeverOpens) {
  CircuitBreaker never(0, absl::Seconds(1), [] { return absl::UnixEpoch(); });
  for (int i = 0; i < 100; ++i) never.OnUnreachable();
  EXPECT_EQ(never.Admit(), Admission::kAllow);
}

TEST_F(CircuitBreakerTest, ManyThreadsGetOneProbe) {
  OpenIt();
  now_ += absl::Seconds(1);
  std::atomic<int> probes{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, &probes] {
      for (int i = 0; i < 1000; ++i) probes += breaker_.Admit() == Admission::kRefuseAndProbe;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(probes, 1);
}

}  // namespace
}  // namespace infercache
