#include "server/rpc/background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace infercache::rpc {
namespace {

// A flush timed out while a large namespace was populated.
TEST(Background, ALongTaskDoesNotHoldUpTheNext) {
  std::promise<void> flushed;
  Background background(2);
  background.Post([done = flushed.get_future().share()] { done.wait(); });
  background.Post([&flushed] { flushed.set_value(); });
}

TEST(Background, RunsWhatIsQueuedBeforeItGoes) {
  std::atomic<int> ran{0};
  {
    Background background(3);
    for (int i = 0; i < 100; ++i) background.Post([&ran] { ++ran; });
  }
  EXPECT_EQ(ran, 100);
}

}  // namespace
}  // namespace infercache::rpc
