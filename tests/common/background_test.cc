#include "common/background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>

namespace infercache {
namespace {

// A flush timed out while a large namespace was populated.
TEST(Background, ALongTaskDoesNotHoldUpTheNext) {
  std::promise<void> flushed;
  const auto flushed_ran = flushed.get_future().share();
  std::future_status seen = std::future_status::timeout;
  {
    Background background(2);
    background.Post(
        [&seen, done = flushed_ran] { seen = done.wait_for(std::chrono::seconds(20)); });
    background.Post([&flushed] { flushed.set_value(); });
    flushed_ran.wait();  // nothing is queued any more
  }
  EXPECT_EQ(seen, std::future_status::ready);
}

// A daemon that was to stop first did all that had been asked for.
TEST(Background, FinishesWhatHasBegunAndDropsWhatIsQueued) {
  std::promise<void> begun, let_go;
  std::atomic<int> ran{0};
  std::future<void> dropped;
  std::thread helper;
  {
    Background background(1);
    background.Post([&] {
      begun.set_value();
      let_go.get_future().wait();
      ++ran;
    });
    begun.get_future().wait();
    const auto promise = std::make_shared<std::promise<void>>();
    dropped = promise->get_future();
    background.Post([&ran, promise] { ++ran; });
    // Once the queue is gone, the promise is broken.
    helper = std::thread([&] {
      dropped.wait();
      let_go.set_value();
    });
  }
  helper.join();
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace infercache
