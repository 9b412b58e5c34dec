#include "common/cuda/context.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "common/cuda/stream_mark.h"
#include "tests/cuda/gpu_fixture.h"

namespace infercache::cuda {
namespace {

class ContextTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (HasFatalFailure()) return;
    auto context = PrimaryContext::Retain(driver_, device_.ordinal);
    ASSERT_TRUE(context.ok()) << context.status();
    context_ = *std::move(context);
  }
  // In the current context.
  StreamMark MarkOf(Stream stream) {
    std::optional<StreamMark> mark;
    EXPECT_EQ(StreamMark::Create(context_, &mark), kSuccess);
    EXPECT_EQ(mark->Record(stream), kSuccess);
    return *std::move(mark);
  }
  std::shared_ptr<const PrimaryContext> context_;
};

TEST_F(ContextTest, StreamsWorkWhereAContextIsCurrent) {
  Stream stream = nullptr;
  EXPECT_EQ(driver_->api().stream_create(&stream, kStreamNonBlocking), kInvalidContext);
  {
    const CurrentContext current(*context_);
    ASSERT_TRUE(current.status().ok());
    ASSERT_EQ(driver_->api().stream_create(&stream, kStreamNonBlocking), kSuccess);
    const StreamMark mark = MarkOf(stream);
    EXPECT_EQ(driver_->api().stream_synchronize(stream), kSuccess);
    EXPECT_EQ(mark.Query(), kSuccess);
    EXPECT_EQ(driver_->api().stream_query(stream), kSuccess);
    EXPECT_EQ(driver_->api().stream_destroy(stream), kSuccess);
  }
  EXPECT_NE(driver_->api().stream_query(nullptr), kSuccess) << "nothing is current any more";
}

TEST_F(ContextTest, AStuckStreamIsNotReadyUntilItGoesOn) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const CurrentContext current(*context_);
  fake().StickStreams();
  const StreamMark mark = MarkOf(nullptr);
  EXPECT_EQ(driver_->api().stream_query(nullptr), kNotReady);
  EXPECT_EQ(mark.Query(), kNotReady);
  fake().FreeStreams();
  EXPECT_EQ(driver_->api().stream_synchronize(nullptr), kSuccess);
  EXPECT_EQ(mark.Query(), kSuccess);
}

TEST_F(ContextTest, AMarkOutlivesItsStream) {
  const CurrentContext current(*context_);
  Stream stream = nullptr;
  ASSERT_EQ(driver_->api().stream_create(&stream, kStreamNonBlocking), kSuccess);
  if (is_fake()) fake().StickStreams();
  StreamMark mark = MarkOf(stream);
  EXPECT_EQ(driver_->api().stream_destroy(stream), kSuccess);
  if (is_fake()) {
    EXPECT_EQ(mark.Query(), kNotReady);
    fake().FreeStreams();
  }
  while (mark.Query() == kNotReady) std::this_thread::yield();
  EXPECT_EQ(mark.Query(), kSuccess);
}

TEST_F(ContextTest, ADeadContextSaysSo) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const CurrentContext current(*context_);
  fake().StickStreams();
  const StreamMark mark = MarkOf(nullptr);
  fake().faults().contexts_dead.store(1);
  fake().FreeStreams();
  EXPECT_EQ(driver_->api().stream_query(nullptr), kIllegalAddress);
  EXPECT_EQ(driver_->api().stream_synchronize(nullptr), kIllegalAddress);
  EXPECT_EQ(mark.Query(), kIllegalAddress);
}

}  // namespace
}  // namespace infercache::cuda
