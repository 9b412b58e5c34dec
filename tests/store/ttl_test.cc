// Expiry, under a clock that only the test moves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>

#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Ttl : public StoreFixture {
 protected:
  void PutFor(uint64_t ttl_ms, std::string_view key = "k", std::string_view value = "v") {
    ns_.MustPut(key, value, {.info = {.ttl_ms = ttl_ms}});
  }

  NamespaceVerbs ns_ = Create("ttl");
};

// The daemon rounds up to 100 ms: never earlier than asked, at most 100 ms later. From any phase of
// the tick.
TEST_F(Ttl, ExpiresWithinOneTickAfterItsTime) {
  for (const uint64_t ttl_ms : {1u, 50u, 99u, 100u, 101u, 250u, 1'000u, 60'000u}) {
    for (const uint64_t phase : {0u, 1u, 37u, 99u}) {
      SCOPED_TRACE(::testing::Message() << "ttl " << ttl_ms << ", put at +" << phase);
      clock_.AdvanceMs(100 - clock_.NowMs() % 100 + phase);
      PutFor(ttl_ms);
      clock_.AdvanceMs(ttl_ms - 1);
      EXPECT_EQ(ns_.Get("k"), "v");
      clock_.AdvanceMs(101);
      EXPECT_EQ(ns_.Get("k"), std::nullopt);
      ns_.MaintainAll();
    }
  }
}

TEST_F(Ttl, ZeroIsForever) {
  PutFor(0);
  clock_.AdvanceMs(uint64_t{20} * 365 * 24 * 3600 * 1000);
  EXPECT_EQ(ns_.Get("k"), "v");
  EXPECT_EQ(ns_.Lookup("k")->info().ttl_ms, 0u);
}

TEST_F(Ttl, LeaseSaysWhatIsLeft) {
  PutFor(10'000);
  const auto lease = ns_.Lookup("k");
  EXPECT_GE(lease->info().ttl_ms, 10'000u);
  EXPECT_LE(lease->info().ttl_ms, 10'100u);
  clock_.AdvanceMs(4'000);
  EXPECT_GE(lease->info().ttl_ms, 6'000u);
  EXPECT_LE(lease->info().ttl_ms, 6'100u);
  clock_.AdvanceMs(20'000);
  EXPECT_NE(lease->info().ttl_ms, 0u) << "0 would mean: never expires";
}

TEST_F(Ttl, ExpiredIsAMissForEverybody) {
  PutFor(1'000);
  clock_.AdvanceMs(1'200);
  EXPECT_FALSE(ns_.Lookup("k"));
  EXPECT_FALSE(ns_.Has("k"));
  EXPECT_FALSE(ns_.Touch("k"));
  EXPECT_THAT(ns_.Keys(), IsEmpty());
  EXPECT_FALSE(ns_.Erase("k"));
  EXPECT_EQ(ns_->Stats().hits, 0u);
  EXPECT_EQ(ns_->Stats().misses, 1u);
  EXPECT_EQ(ns_->Stats().erased, 0u);
}

TEST_F(Ttl, UseDoesNotExtend) {
  PutFor(1'000);
  for (int i = 0; i < 9; ++i) {
    clock_.AdvanceMs(100);
    EXPECT_TRUE(ns_.Lookup("k"));
    EXPECT_EQ(*ns_.Put("k", "again", {.info = {.ttl_ms = 100'000}}), CommitOutcome::kExists);
  }
  clock_.AdvanceMs(300);
  EXPECT_FALSE(ns_.Lookup("k"));
}

TEST_F(Ttl, OverwriteStartsAnew) {
  PutFor(1'000);
  clock_.AdvanceMs(900);
  ns_.MustPut("k", "fresh", {.overwrite = true, .info = {.ttl_ms = 1'000}});
  clock_.AdvanceMs(900);
  EXPECT_EQ(ns_.Get("k"), "fresh");
  ns_.MustPut("k", "eternal", {.overwrite = true});
  clock_.AdvanceMs(100'000);
  EXPECT_EQ(ns_.Get("k"), "eternal");
}

TEST_F(Ttl, ExpiredKeyCanBePutWithoutOverwrite) {
  PutFor(1'000);
  clock_.AdvanceMs(1'200);
  ns_.MustPut("k", "second");
  EXPECT_EQ(ns_.Get("k"), "second");
  EXPECT_EQ(ns_->Stats().objects, 1u);
}

TEST_F(Ttl, LateCommitStoresIfTheFirstHasExpired) {
  WriteLease late = ns_.Reserve("k", "late");
  PutFor(1'000);
  clock_.AdvanceMs(1'200);
  EXPECT_EQ(*ns_->Commit(std::move(late)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "late");
}

// The time runs from the commit: a slow writer does not publish what has expired already.
TEST_F(Ttl, RunsFromCommit) {
  WriteLease slow = ns_.Reserve("k", "v", {.info = {.ttl_ms = 1'000}});
  clock_.AdvanceMs(5'000);
  EXPECT_EQ(*ns_->Commit(std::move(slow)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "v");
  clock_.AdvanceMs(999);
  EXPECT_EQ(ns_.Get("k"), "v");
  clock_.AdvanceMs(102);
  EXPECT_EQ(ns_.Get("k"), std::nullopt);
}

TEST_F(Ttl, MaintainFreesTheExpired) {
  PutFor(1'000, "soon", "12345");
  PutFor(60'000, "later");
  ns_.MustPut("never", "v");
  clock_.AdvanceMs(1'200);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().expired, 1u);
  EXPECT_EQ(ns_->Stats().objects, 2u);
  const std::vector<SeenEvent> events = Events(EventKind::kExpired);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].size_bytes, 5u);
  EXPECT_THAT(ns_.Keys(), ElementsAre("later", "never"));
}

TEST_F(Ttl, MaintainFreesManyExpired) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("many", 4 * kMiB);
  for (int i = 0; i < 1'000; ++i) PutFor(i % 2 == 0 ? 1'000 : 0, "k" + std::to_string(i));
  clock_.AdvanceMs(1'200);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().expired, 500u);
  EXPECT_EQ(ns_->Stats().objects, 500u);
  EXPECT_EQ(ns_->Stats().evicted, 0u);
}

TEST_F(Ttl, ReadersKeepWhatExpires) {
  PutFor(1'000);
  std::optional<ReadLease> reader = ns_.Lookup("k");
  clock_.AdvanceMs(5'000);
  ns_.MaintainAll();
  EXPECT_FALSE(ns_.Lookup("k"));
  EXPECT_EQ(Bytes(*reader), "v");
  EXPECT_EQ(reader->key(), "k");
  reader.reset();
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

// Dead objects must not cost live ones their place.
TEST_F(Ttl, ExpiredGoBeforeTheLiving) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("full", QuotaForLiveObjects(64, 4096));
  const std::string value(4096, 'v');
  for (int i = 0; i < 32; ++i) ns_.MustPut("live:" + std::to_string(i), value);
  for (int i = 0; i < 32; ++i) PutFor(1'000, "dying:" + std::to_string(i), value);
  clock_.AdvanceMs(2'000);
  ns_.MaintainAll();
  for (int i = 0; i < 32; ++i) ns_.MustPut("new:" + std::to_string(i), value);
  EXPECT_THAT(ns_.Keys("live:"), SizeIs(32));
  EXPECT_EQ(ns_->Stats().evicted, 0u);
  EXPECT_EQ(ns_->Stats().expired, 32u);
}

}  // namespace
}  // namespace infercache::store
