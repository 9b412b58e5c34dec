// What observers are told. That sequence numbers have no gap is checked after every test of the
// store (StoreFixture::TearDown); here: the kinds, the sizes and the order.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Events : public StoreFixture {
 protected:
  std::vector<EventKind> Kinds() {
    std::vector<EventKind> kinds;
    for (const SeenEvent& event : StoreFixture::Events()) kinds.push_back(event.kind);
    return kinds;
  }

  NamespaceVerbs ns_ = Create("events");
};

TEST_F(Events, LifeOfAnObject) {
  ns_.MustPut("k", "v");
  EXPECT_THAT(Kinds(), ElementsAre(EventKind::kStored));
  EXPECT_TRUE(ns_.Erase("k"));
  EXPECT_THAT(Kinds(), ElementsAre(EventKind::kErased));
  ns_.MustPut("k", "v", {.info = {.ttl_ms = 100}});
  clock_.AdvanceMs(1'000);
  ns_.MaintainAll();
  EXPECT_THAT(Kinds(), ElementsAre(EventKind::kStored, EventKind::kExpired));
  ns_.MustPut("k", "v");
  ns_->Flush("");
  EXPECT_THAT(Kinds(), ElementsAre(EventKind::kStored, EventKind::kFlushed));
}

TEST_F(Events, WhatChangesNothingSaysNothing) {
  ns_.MustPut("k", "v");
  (void)Kinds();
  EXPECT_TRUE(ns_.Lookup("k"));
  EXPECT_FALSE(ns_.Lookup("absent"));
  EXPECT_TRUE(ns_.Touch("k"));
  EXPECT_FALSE(ns_.Erase("absent"));
  EXPECT_EQ(*ns_.Put("k", "again"), CommitOutcome::kExists);
  { const WriteLease aborted = ns_.Reserve("other", "v"); }
  EXPECT_FALSE(ns_.TryReserve("", 1).ok());
  ns_.MaintainAll();
  EXPECT_THAT(Kinds(), IsEmpty());
}

TEST_F(Events, OverwriteTellsOfBothObjects) {
  ns_.MustPut("k", "old");
  ns_.MustPut("k", "new value", {.overwrite = true});
  uint64_t replaced_bytes = 0;
  std::vector<uint64_t> stored_bytes;
  for (const SeenEvent& event : StoreFixture::Events()) {
    if (event.kind == EventKind::kReplaced) replaced_bytes = event.size_bytes;
    if (event.kind == EventKind::kStored) stored_bytes.push_back(event.size_bytes);
  }
  EXPECT_EQ(replaced_bytes, 3u) << "the old object's size";
  EXPECT_THAT(stored_bytes, ElementsAre(3u, 9u));
}

TEST_F(Events, KeyHashNamesTheObject) {
  ns_.MustPut("a", "v");
  ns_.MustPut("b", "v");
  EXPECT_TRUE(ns_.Erase("a"));
  const std::vector<SeenEvent> events = StoreFixture::Events();
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(events[0].key_hash, events[2].key_hash);
  EXPECT_NE(events[0].key_hash, events[1].key_hash);
  ns_.MustPut("a", "v");
  EXPECT_EQ(StoreFixture::Events().back().key_hash, events[0].key_hash);
}

TEST_F(Events, IdleTimeIsSinceTheLastUse) {
  ns_.MustPut("k", "v");
  clock_.AdvanceMs(5'000);
  EXPECT_TRUE(ns_.Touch("k"));
  clock_.AdvanceMs(700);
  EXPECT_TRUE(ns_.Erase("k"));
  const std::vector<SeenEvent> events = StoreFixture::Events();
  EXPECT_EQ(events.back().idle_ms, 700u);
}

TEST_F(Events, NamespacesCountOnTheirOwn) {
  const NamespaceVerbs other = Create("other");
  ns_.MustPut("k", "v");
  other.MustPut("k", "v");
  ns_.MustPut("l", "v");
  for (const SeenEvent& event : StoreFixture::Events()) {
    EXPECT_LE(event.sequence, event.namespace_name == "other" ? 1u : 2u);
  }
}

TEST_F(Events, WorksWithoutAnObserver) {
  Store silent({.capacity_bytes = kMiB, .background = false}, clock_);
  const NamespaceVerbs ns(*silent.CreateNamespace({.name = "silent", .quota_bytes = kMiB}));
  ns.MustPut("k", "v");
  ns.MustPut("k", "w", {.overwrite = true});
  EXPECT_TRUE(ns.Erase("k"));
  ExpectGivesEverythingBack(ns);
}

// Of one key's events, each kStored is followed by exactly one removal before the next kStored, in
// the order of the sequence numbers, however many threads make them.
TEST_F(Events, SequenceIsTheOrderOfTheChanges) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([ns = ns_, t] {
      for (int i = 0; i < 500; ++i) {
        const std::string key = "k" + std::to_string(i % 3);
        if ((i + t) % 3 == 0) {
          ns.Erase(key);
        } else {
          EXPECT_TRUE(ns.Put(key, "v", {.overwrite = (i + t) % 3 == 1}).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::pair<Hash128, int>> live;
  const auto count_of = [&live](const Hash128& hash) -> int& {
    for (auto& [seen, count] : live) {
      if (seen == hash) return count;
    }
    return live.emplace_back(hash, 0).second;
  };
  for (const SeenEvent& event : StoreFixture::Events()) {
    int& count = count_of(event.key_hash);
    count += event.kind == EventKind::kStored ? 1 : -1;
    // An overwrite may tell of the new object before or after the old one's end.
    ASSERT_GE(count, -1);
    ASSERT_LE(count, 2);
  }
  int left = 0;
  for (const auto& [hash, count] : live) {
    EXPECT_GE(count, 0);
    EXPECT_LE(count, 1);
    left += count;
  }
  EXPECT_EQ(static_cast<uint64_t>(left), ns_->Stats().objects);
}

}  // namespace
}  // namespace infercache::store
