#include "common/background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>

namespace infercache {
namespace {

// A flush timed out while a large namespace was populated.
TEST(Background, ALongTaskDoesNotHoldUpTheNext) {
  std::promise<void> flushed;
  std::future_status seen = std::future_status::timeout;
  {
    Background background(2);
    background.Post([&seen, done = flushed.get_future().share()] {
      seen = done.wait_for(std::chrono::seconds(20));
    });
    background.Post([&flushed] { flushed.set_value(); });
  }
  EXPECT_EQ(seen, std::future_status::ready);
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
}  // namespace infercache
