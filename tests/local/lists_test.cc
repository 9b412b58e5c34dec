#include "server/local/lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <vector>

#include "common/mutex.h"

namespace infercache::local {
namespace {

// Both threads are at something until it is let go.
class ListsTest : public ::testing::Test {
 protected:
  ListsTest() {
    for (uint64_t session = 1; session <= 2; ++session) {
      lists_.Post(7, session, [this, session] {
        begun_[session - 1].set_value();
        go_.wait();
      });
    }
    for (std::promise<void>& begun : begun_) begun.get_future().wait();
  }

  void Post(uint32_t user, uint64_t session) {
    lists_.Post(user, session, [this, session] {
      MutexLock lock(&mu_);
      ran_.push_back(session);
      done_.SignalAll();
    });
  }
  std::vector<uint64_t> Await(size_t count) {
    let_go_.set_value();
    MutexLock lock(&mu_);
    while (ran_.size() < count) done_.Wait(&mu_);
    return ran_;
  }

  std::promise<void> let_go_;
  const std::shared_future<void> go_ = let_go_.get_future().share();
  std::promise<void> begun_[2];
  Mutex mu_;
  CondVar done_;
  std::vector<uint64_t> ran_ ABSL_GUARDED_BY(mu_);
  Lists lists_;
};

// Connections that asked for a list and closed made the daemon walk on for hours, for nobody.
TEST_F(ListsTest, NobodyWaitsForWhatWasAbandoned) {
  for (uint64_t session = 10; session < 1000; ++session) {
    Post(7, session);
    EXPECT_EQ(lists_.size(), 1u);
    lists_.Drop(7, session);
  }
  EXPECT_EQ(lists_.size(), 0u);
  Post(7, 1000);
  EXPECT_EQ(Await(1), std::vector<uint64_t>{1000});
}

TEST_F(ListsTest, UsersTakeTurns) {
  for (uint64_t session = 10; session < 1000; ++session) Post(7, session);
  Post(8, 1000);
  const std::vector<uint64_t> ran = Await(991);
  EXPECT_LT(std::ranges::find(ran, uint64_t{1000}) - ran.begin(), 4);
}

TEST_F(ListsTest, WhatBelongsToAnotherSessionStays) {
  Post(7, 10);
  lists_.Drop(7, 11);
  lists_.Drop(9, 10);
  EXPECT_EQ(Await(1), std::vector<uint64_t>{10});
}

}  // namespace
}  // namespace infercache::local
