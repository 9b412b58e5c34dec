#include "client/src/completion_queue.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <set>
#include <thread>

namespace infercache {
namespace {

bool Readable(int fd) {
  pollfd waiting = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&waiting, 1, 0) == 1;
}

TEST(CompletionQueue, IsReadableWhileThereIsSomething) {
  auto queue = *CompletionQueue::Create();
  EXPECT_FALSE(Readable(queue->event_fd()));
  EXPECT_TRUE(queue->Drain().empty());
  queue->Push({.id = 1});
  queue->Push({.id = 2});
  EXPECT_TRUE(Readable(queue->event_fd()));
  const std::vector<Completion> drained = queue->Drain();
  ASSERT_EQ(drained.size(), 2u);
  EXPECT_EQ(drained[0].id, 1u);
  EXPECT_EQ(drained[1].id, 2u);
  EXPECT_FALSE(Readable(queue->event_fd()));
  queue->Push({.id = 3});
  EXPECT_TRUE(Readable(queue->event_fd()));
}

// The usual thing to do with an eventfd ended the program.
TEST(CompletionQueue, MayBeReadBeforeItIsDrained) {
  auto queue = *CompletionQueue::Create();
  for (uint64_t id = 1; id <= 3; ++id) {
    queue->Push({.id = id});
    uint64_t count = 0;
    ASSERT_EQ(read(queue->event_fd(), &count, sizeof count), ssize_t{sizeof count});
    EXPECT_FALSE(Readable(queue->event_fd()));
    const std::vector<Completion> drained = queue->Drain();
    ASSERT_EQ(drained.size(), 1u);
    EXPECT_EQ(drained[0].id, id);
  }
  queue->Push({.id = 4});
  EXPECT_TRUE(Readable(queue->event_fd()));
}

TEST(CompletionQueue, HandsOutWithoutADescriptorToo) {
  const auto queue = CompletionQueue::WithoutDescriptor();
  EXPECT_EQ(queue->event_fd(), -1);
  queue->Push({.id = 1});
  EXPECT_EQ(queue->Drain().size(), 1u);
  EXPECT_TRUE(queue->Drain().empty());
}

// A drainer that waits on the descriptor alone gets everything, each once.
TEST(CompletionQueue, LosesAndRepeatsNothingUnderThreads) {
  constexpr int kProducers = 4;
  constexpr uint64_t kEach = 20'000;
  auto queue = *CompletionQueue::Create();
  std::vector<std::thread> producers;
  for (uint64_t p = 0; p < kProducers; ++p) {
    producers.emplace_back([&queue, p] {
      for (uint64_t i = 0; i < kEach; ++i) queue->Push({.id = p * kEach + i});
    });
  }
  std::set<RequestId> seen;
  while (seen.size() < kProducers * kEach) {
    pollfd waiting = {.fd = queue->event_fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&waiting, 1, 10'000), 1) << "a wake-up was lost after " << seen.size();
    for (const Completion& completion : queue->Drain()) {
      ASSERT_TRUE(seen.insert(completion.id).second) << completion.id << " came twice";
    }
  }
  for (std::thread& producer : producers) producer.join();
  EXPECT_FALSE(Readable(queue->event_fd()));
}

}  // namespace
}  // namespace infercache
