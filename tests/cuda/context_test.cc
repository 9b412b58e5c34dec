#include "common/cuda/context.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/cuda/gpu_fixture.h"

namespace infercache::cuda {
namespace {

class ContextTest : public GpuTest {
 protected:
  void Count(Stream stream) {
    ASSERT_EQ(driver_->api().launch_host_func(
                  stream, [](void* count) { ++*static_cast<std::atomic<int>*>(count); }, &count_),
              kSuccess);
  }
  std::atomic<int> count_{0};
};

TEST_F(ContextTest, StreamsWorkWhereAContextIsCurrent) {
  Stream stream = nullptr;
  EXPECT_EQ(driver_->api().stream_create(&stream, kStreamNonBlocking), kInvalidContext);
  const auto context = PrimaryContext::Retain(driver_, device_.ordinal);
  ASSERT_TRUE(context.ok()) << context.status();
  {
    const CurrentContext current(**context);
    ASSERT_TRUE(current.status().ok());
    ASSERT_EQ(driver_->api().stream_create(&stream, kStreamNonBlocking), kSuccess);
    Count(stream);
    Count(stream);
    EXPECT_EQ(driver_->api().stream_synchronize(stream), kSuccess);
    EXPECT_EQ(count_.load(), 2);
    EXPECT_EQ(driver_->api().stream_query(stream), kSuccess);
    EXPECT_EQ(driver_->api().stream_destroy(stream), kSuccess);
  }
  EXPECT_NE(driver_->api().stream_query(nullptr), kSuccess) << "nothing is current any more";
}

TEST_F(ContextTest, AStuckStreamIsNotReadyUntilItGoesOn) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const auto context = PrimaryContext::Retain(driver_, device_.ordinal);
  ASSERT_TRUE(context.ok());
  const CurrentContext current(**context);
  fake().StickStreams();
  Count(nullptr);
  EXPECT_EQ(driver_->api().stream_query(nullptr), kNotReady);
  EXPECT_EQ(count_.load(), 0);
  fake().FreeStreams();
  EXPECT_EQ(driver_->api().stream_synchronize(nullptr), kSuccess);
  EXPECT_EQ(count_.load(), 1);
}

TEST_F(ContextTest, ADeadContextCallsNobodyAndSaysSo) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const auto context = PrimaryContext::Retain(driver_, device_.ordinal);
  ASSERT_TRUE(context.ok());
  const CurrentContext current(**context);
  fake().StickStreams();
  Count(nullptr);
  fake().faults().contexts_dead.store(1);
  fake().FreeStreams();
  EXPECT_EQ(driver_->api().stream_query(nullptr), kIllegalAddress);
  EXPECT_EQ(driver_->api().stream_synchronize(nullptr), kIllegalAddress);
  EXPECT_EQ(count_.load(), 0);
}

}  // namespace
}  // namespace infercache::cuda
