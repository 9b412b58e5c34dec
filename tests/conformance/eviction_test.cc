// What the eviction policy hears of uses, chains and hints is the same over every transport, and
// decides what goes. The policy is the default one.

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

template <typename Transport>
class Eviction : public Conformance<Transport> {
 protected:
  static constexpr uint64_t kFillerBytes = 1;

  // Block i of a chain: its size says which one it is.
  static constexpr uint64_t kFirstBytes = 30'000;
  static std::string BlockKey(int i) { return absl::StrCat("block/", i); }
  static int BlockOf(uint64_t size_bytes) { return static_cast<int>(size_bytes - kFirstBytes); }

  auto ConnectToSmall() {
    return this->Connect([](ClientOptions& options) { options.namespace_name = kSmallNamespace; });
  }
  // Stores blocks first..last in one call; `parent` comes before the first, -1 = none.
  void PutBlocks(int first, int last, int parent) {
    std::vector<std::string> keys, values;
    for (int i = first; i <= last; ++i) {
      keys.push_back(BlockKey(i));
      values.push_back(Pattern(kFirstBytes + i, i));
    }
    std::vector<PutItem> items;
    for (size_t i = 0; i < keys.size(); ++i) {
      items.push_back({.key = keys[i], .value = {Bytes(values[i])}});
      if (i > 0) items[i].info.parent_key = keys[i - 1];
    }
    if (parent >= 0) items[0].info.parent_key = BlockKey(parent);
    for (const PutResult& result : small_->Put(items)) {
      ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
    }
  }
  void GetBlocks(int first, int last) {
    std::vector<std::string> keys;
    for (int i = first; i <= last; ++i) keys.push_back(BlockKey(i));
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    // Of the answers before, which may be with the client and count as on their way.
    while (this->daemon().PinnedResponseBytes() != 0) std::this_thread::yield();
    const auto results = small_->Get(views);
    for (size_t i = 0; i < results.size(); ++i) {
      ASSERT_TRUE(results[i].hit()) << results[i].status;
      ASSERT_TRUE(Text(results[i].object->bytes()) == Pattern(kFirstBytes + first + i, first + i));
    }
  }
  // What clients of the same-host lane have used is taken in within a moment.
  void AwaitHits(uint64_t count) {
    while (Uses().hits < count) std::this_thread::yield();
    EXPECT_EQ(Uses().hits, count);
  }
  // A tier's follow from its bytes.
  int MostObjects() { return static_cast<int>(this->daemon().Stats(kSmallNamespace).max_objects); }
  store::UseStats Uses() { return this->daemon().Stats(kSmallNamespace).uses; }

  // Stores `count` objects of so many bytes each, and nobody's parent or child.
  void PutMany(const std::string& prefix, int count, uint64_t bytes, const ObjectInfo& info = {}) {
    std::vector<std::string> keys;
    for (int i = 0; i < count; ++i) keys.push_back(absl::StrCat(prefix, i));
    const std::string value(bytes, 'v');
    std::vector<PutItem> items;
    for (const std::string& key : keys) {
      items.push_back({.key = key, .info = info, .value = {Bytes(value)}});
    }
    for (const PutResult& result : small_->Put(items)) {
      ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
    }
  }
  // The blocks in the order in which they go when the namespace is filled with others.
  std::vector<int> OrderOfEviction() {
    this->daemon().clock().AdvanceMs(1'000);
    PutMany("filler/", MostObjects(), kFillerBytes);
    std::vector<int> order;
    for (const uint64_t size : this->daemon().EvictedSizes()) {
      if (size != kFillerBytes) order.push_back(BlockOf(size));
    }
    return order;
  }

  std::unique_ptr<typename Transport::Client> small_ = ConnectToSmall();
};
using EvictionTransports = ::testing::Types<TcpFixture, StreamsFixture, LocalFixture, GpuFixture>;
TYPED_TEST_SUITE(Eviction, EvictionTransports, TransportName);

// What a Device has no call for.
template <typename Transport>
class EvictionOfClients : public Eviction<Transport> {};
using ClientTransports = ::testing::Types<TcpFixture, StreamsFixture, LocalFixture>;
TYPED_TEST_SUITE(EvictionOfClients, ClientTransports, TransportName);

TYPED_TEST(Eviction, AChainGoesFromItsEnd) {
  this->PutBlocks(0, 2, /*parent=*/-1);
  this->daemon().clock().AdvanceMs(1'000);
  this->PutBlocks(3, 5, /*parent=*/2);
  EXPECT_THAT(this->OrderOfEviction(), ElementsAre(5, 4, 3, 2, 1, 0));
}

// Each of them is stored by a call of its own.
TYPED_TEST(EvictionOfClients, AChainThatIsComputedGoesFromItsEnd) {
  std::vector<std::string> keys;
  for (int i = 0; i < 5; ++i) keys.push_back(this->BlockKey(i));
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  for (const ComputeResult& result :
       this->small_->GetOrCompute(views, [this](ComputeSlot& slot) -> absl::Status {
         const auto bytes = slot.Allocate(this->kFirstBytes + slot.index(), {}, {});
         if (!bytes.ok()) return bytes.status();
         std::fill(bytes->begin(), bytes->end(), std::byte{1});
         return absl::OkStatus();
       })) {
    ASSERT_TRUE(result.status.ok() && result.stored.ok()) << result.status << result.stored;
  }
  EXPECT_THAT(this->OrderOfEviction(), ElementsAre(4, 3, 2, 1, 0));
}

// However many calls it takes to bring its blocks: they are used once, from the last to the first.
TYPED_TEST(Eviction, AChainThatIsReadIsUsedOnceFromItsEnd) {
  this->PutBlocks(0, 5, /*parent=*/-1);
  this->daemon().clock().AdvanceMs(1'000);
  for (int i = 0; i < 3; ++i) this->GetBlocks(0, 5);
  this->AwaitHits(6);
  EXPECT_THAT(this->OrderOfEviction(), ElementsAre(5, 4, 3, 2, 1, 0));
}

// Of what goes on behind one block, that which ended its request goes first: the other may go on.
TYPED_TEST(Eviction, TheBlockThatEndsAReadGoesFirst) {
  this->PutBlocks(0, 1, /*parent=*/-1);
  this->daemon().clock().AdvanceMs(1'000);
  this->GetBlocks(0, 1);
  this->AwaitHits(2);
  this->PutBlocks(2, 2, /*parent=*/0);
  EXPECT_THAT(this->OrderOfEviction(), ElementsAre(1, 2, 0));
}

TYPED_TEST(Eviction, TheBlockThatEndsAPutGoesFirst) {
  this->PutBlocks(0, 0, /*parent=*/-1);
  this->PutBlocks(1, 1, /*parent=*/0);
  this->PutBlocks(2, 3, /*parent=*/0);
  EXPECT_THAT(this->OrderOfEviction(), ElementsAre(3, 1, 2, 0));
}

// What is of one class comes back, what is of another never does. Nothing else tells them apart.
TYPED_TEST(Eviction, LearnsWhatAClassIsWorth) {
  constexpr uint64_t kGoodBytes = 5, kBadBytes = 9;
  constexpr uint64_t kBetweenUsesMs = 31'000;  // after which the policy learns again
  ObjectInfo good, bad;
  good.class_id = 5;
  bad.class_id = 9;
  uint64_t hits = 0;
  for (int round = 0; round < 16; ++round) {
    std::vector<std::string> good_keys, keys;
    for (int i = 0; i < 100; ++i) {
      const std::string name = absl::StrCat(round, "/", i, "/");
      this->PutMany("good/" + name, 1, kGoodBytes, good);
      this->PutMany("bad/" + name, 1, kBadBytes, bad);
      good_keys.push_back("good/" + name + "0");
      keys.insert(keys.end(), {good_keys.back(), "bad/" + name + "0"});
    }
    this->daemon().clock().AdvanceMs(kBetweenUsesMs);
    for (const std::string& key : good_keys) {
      ASSERT_TRUE(this->small_->Get(key).hit());
    }
    hits += good_keys.size();
    this->AwaitHits(hits);
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    ASSERT_TRUE(this->small_->Delete(views).status.ok());
  }
  // The good ones are the oldest when room is needed.
  this->PutMany("good/last/", 200, kGoodBytes, good);
  this->daemon().clock().AdvanceMs(kBetweenUsesMs);
  this->PutMany("bad/last/", this->MostObjects(), kBadBytes, bad);
  const std::vector<uint64_t> evicted = this->daemon().EvictedSizes();
  EXPECT_GE(evicted.size(), 200u);
  EXPECT_THAT(evicted, Not(Contains(kGoodBytes)));
  const auto& classes = this->Uses().classes;
  EXPECT_EQ(classes[5].hits, hits);
  EXPECT_EQ(classes[5].stored, hits + 200);
  EXPECT_EQ(classes[9].hits, 0u);
  EXPECT_EQ(classes[9].stored, hits + this->MostObjects());
  EXPECT_EQ(classes[0].stored, 0u);
}

TYPED_TEST(Eviction, HitsSaveTheCostThatWasStated) {
  PutItem item = {.key = "k", .value = {Bytes("v")}};
  item.info.compute_cost_ms = 1'500;
  ASSERT_TRUE(this->PutStatus(item).ok());
  const auto saved_us = [this] {
    const store::NamespaceStats stats = this->daemon().Stats();
    return stats.saved_compute_us + stats.client.saved_compute_us;
  };
  EXPECT_EQ(saved_us(), 0u);
  EXPECT_EQ(this->Get("k"), "v");
  EXPECT_EQ(saved_us(), 1'500'000u);
  EXPECT_EQ(this->Get("k"), "v");
  EXPECT_EQ(this->Get("missing"), "(miss)");
  EXPECT_EQ(saved_us(), 3'000'000u);
}

TYPED_TEST(Eviction, WhatHasExpiredGoesThoughNobodyAsks) {
  PutItem item = {.key = "short", .value = {Bytes("v")}};
  item.info.ttl_ms = 10'000;
  ASSERT_TRUE(this->PutStatus(item).ok());
  this->Put("eternal", "v");
  this->daemon().clock().AdvanceMs(10'200);
  while (this->daemon().Stats().objects == 2) std::this_thread::yield();
  EXPECT_EQ(this->daemon().Stats().objects, 1u);
  EXPECT_EQ(this->daemon().Stats().expired, 1u);
  EXPECT_THAT(this->Exists(std::vector<std::string_view>{"short", "eternal"}),
              ElementsAre(false, true));
  // A miss by its time, not by the size of the cache.
  this->Put("short", "v");
  EXPECT_EQ(this->daemon().Stats().uses.misses_expired, 1u);
  EXPECT_EQ(this->daemon().Stats().uses.misses_cold, 2u);
}

}  // namespace
}  // namespace infercache
