// The order in which a namespace's objects go: chains, batches, pins, and what happens to it when
// the policy changes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/store/chain.h"
#include "server/store/eviction/policy.h"
#include "tests/build_kind.h"
#include "tests/store/pattern.h"
#include "tests/store/shm_client.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Mix;

constexpr const char* kAllPolicies[] = {"auto", "lru", "fifo", "lfu", "s3fifo", "arc"};

std::string KeyOf(int i) { return "block:" + std::to_string(i); }

class RankingTest : public StoreFixture {
 protected:
  // Room for `objects` small objects.
  void Open(int objects, std::string policy = "lru", std::string name = "ranked") {
    ns_ = Create({.name = std::move(name),
                  .quota_bytes = 4 * kMiB,
                  .max_objects = static_cast<uint64_t>(objects),
                  .policy = std::move(policy)});
  }
  ObjectId Id(const std::string& key) const { return {key, Fingerprint().hash()}; }
  // Stores one block of a chain, whose piece goes on after `anchor`.
  void Put(int block, const UseContext& use, int parent = -1) {
    ObjectInfo info;
    if (parent >= 0) info.parent_key = KeyOf(parent);
    auto lease = ns_->Reserve({.id = Id(KeyOf(block)), .size_bytes = 8, .info = &info, .use = use});
    ASSERT_TRUE(lease.ok()) << lease.status();
    ASSERT_TRUE(lease->has_value());
    ASSERT_TRUE(ns_->Commit(**std::move(lease), use).ok());
  }
  // Stores blocks first..last as one call that knows their parents, and touches the ones before.
  void Request(int hit, int first, int last, int piece) {
    UseContext use{.request = ns_->NewRequest()};
    for (int i = hit; i >= 0; --i) {
      EXPECT_TRUE(ns_->Probe(Id(KeyOf(i)), /*touch=*/true, use).has_value()) << i;
    }
    for (int begin = first; begin <= last; begin += piece) {
      clock_.AdvanceMs(300);
      const int end = std::min(begin + piece - 1, last);
      use.request = ns_->NewRequest();
      if (begin > 0) use.anchor = ns_->ChainHash(Id(KeyOf(begin - 1)));
      for (int i = end; i >= begin; --i) {
        use.ends_request = i == end;
        Put(i, use);
      }
    }
  }
  // The numbers of the objects, in the order in which they are evicted for others.
  std::vector<int> OrderOfEviction(int objects) {
    std::vector<int> order;
    std::vector<bool> there(objects, true);
    for (int i = 0; static_cast<int>(order.size()) < objects && i < 4 * objects; ++i) {
      clock_.AdvanceMs(1);
      ns_.MustPut("other:" + std::to_string(i), "v");
      for (int block = 0; block < objects; ++block) {
        if (there[block] && !ns_.Has(KeyOf(block))) {
          there[block] = false;
          order.push_back(block);
        }
      }
    }
    return order;
  }

  NamespaceVerbs ns_ = NamespaceVerbs(nullptr);
};

class ChainOrder : public RankingTest, public ::testing::WithParamInterface<const char*> {};
// Those that order by the last use, whatever else they look at. The learned index has learned
// nothing yet.
INSTANTIATE_TEST_SUITE_P(Policies, ChainOrder, ::testing::Values("lru", "auto"));

TEST_P(ChainOrder, OneBatchGoesFromItsEnd) {
  Open(6, GetParam());
  Request(-1, 0, 5, 6);
  EXPECT_THAT(OrderOfEviction(6), ElementsAre(5, 4, 3, 2, 1, 0));
}

TEST_P(ChainOrder, ARequestInPiecesGoesFromItsEnd) {
  Open(9, GetParam());
  Request(-1, 0, 2, 3);
  clock_.AdvanceMs(5'000);
  Request(2, 3, 8, 2);
  EXPECT_THAT(OrderOfEviction(9), ElementsAre(8, 7, 6, 5, 4, 3, 2, 1, 0));
}

TEST_F(RankingTest, AnObjectOfItsOwnGoesBehindItsParent) {
  Open(4);
  Put(0, {});
  Put(1, {}, /*parent=*/0);
  Put(2, {}, /*parent=*/1);
  Put(3, {});
  EXPECT_THAT(OrderOfEviction(4), ElementsAre(2, 1, 0, 3));
}

TEST_F(RankingTest, AParentThatIsNotThereOrLongUnusedDoesNotCount) {
  Open(3);
  Put(0, {}, /*parent=*/77);
  clock_.AdvanceMs(10);
  Put(1, {});
  clock_.AdvanceMs(120'000);
  Put(2, {}, /*parent=*/0);
  EXPECT_THAT(OrderOfEviction(3), ElementsAre(0, 1, 2));
}

class OverlongPrompt : public RankingTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, OverlongPrompt, ::testing::ValuesIn(kAllPolicies));

TEST_P(OverlongPrompt, PushesOutNoMoreOfItsHeadThanOnePiece) {
  constexpr int kCapacity = 64, kPiece = 16;
  Open(kCapacity, GetParam());
  Request(-1, 0, 4 * kCapacity, kPiece);
  int prefix = 0;
  while (ns_.Has(KeyOf(prefix))) ++prefix;
  EXPECT_GE(prefix, kCapacity - kPiece);
}

TEST_F(RankingTest, AnObjectWhoseParentWasEvictedGoesFirstUntilItIsUsed) {
  for (const bool used : {false, true}) {
    Open(3, "lru", used ? "used" : "unused");
    Put(0, {});
    Put(1, {}, /*parent=*/0);
    Put(3, {});
    Put(4, {});
    ASSERT_FALSE(ns_.Has(KeyOf(1)));
    Put(2, {}, /*parent=*/1);
    ASSERT_FALSE(ns_.Has(KeyOf(0)));
    clock_.AdvanceMs(1'000);
    if (used) {
      EXPECT_TRUE(ns_->Probe(Id(KeyOf(2)), /*touch=*/true, {}).has_value());
    }
    const std::vector<int> order = OrderOfEviction(5);
    if (used) {
      EXPECT_THAT(order, ElementsAre(0, 1, 3, 4, 2));
    } else {
      EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
    }
  }
}

// Threads look at the clock before they write their notes, whose order may be another one.
TEST_F(RankingTest, ANoteThatComesLateAgesNobody) {
  Open(3, "auto");
  ns_.MustPut(KeyOf(0), "v");
  clock_.AdvanceMs(1'000);
  ns_.MustPut(KeyOf(1), "v");
  clock_.AdvanceMs(static_cast<uint64_t>(-1));
  ns_.MustPut(KeyOf(2), "v");
  clock_.AdvanceMs(2);
  ns_.MustPut(KeyOf(3), "v");
  EXPECT_FALSE(ns_.Has(KeyOf(0))) << "the oldest";
  EXPECT_TRUE(ns_.Has(KeyOf(1)));
  EXPECT_TRUE(ns_.Has(KeyOf(2)));
}

TEST_F(RankingTest, ChainRootsAreWhereThePiecesBegin) {
  const auto hash = [](uint64_t i) { return Hash128{i, i}; };
  const std::vector<ChainLink> links = {{hash(1), hash(9)},   {hash(2), hash(1)},
                                        {hash(5), Hash128()}, {hash(3), hash(2)},
                                        {hash(6), hash(5)},   {hash(9), hash(3)}};
  EXPECT_THAT(ChainRoots(links), ElementsAre(0, 0, 2, 0, 2, 0));
  EXPECT_TRUE(ChainRoots({}).empty());
}

TEST_F(RankingTest, TouchesOfAClientAreOneRequestUpToItsLastBit) {
  Open(4);
  for (int i = 0; i < 4; ++i) ns_.MustPut(KeyOf(i), "v");
  clock_.AdvanceMs(1'000);
  {
    ShmClient client(ns_.shared());
    const auto touch = [&](int block, bool ends) {
      EXPECT_EQ(client.Find(KeyOf(block), clock_.NowMs()).outcome, shm::FindOutcome::kPinned);
      const uint64_t pin = client.page().slot(0).load();
      client.Unpin();
      shm::LaneHeader& lane = client.page().lane(0);
      client.page().touch(0, lane.touched.load()).store(shm::MakeTouch(pin, ends));
      lane.touched.fetch_add(1);
    };
    // A chain of two, told from its end, and another block: two requests, the first of which is
    // taken in in two pieces.
    touch(3, false);
    touch(1, true);
    touch(0, true);
    std::vector<bool> begins;
    const auto note = [&begins](uint64_t, bool begins_request) {
      begins.push_back(begins_request);
    };
    EXPECT_EQ(client.daemons_page()->TakeTouches(1, note), 1u);
    EXPECT_EQ(client.daemons_page()->TakeTouches(10, note), 2u);
    EXPECT_THAT(begins, ElementsAre(true, false, true));
    touch(3, false);
    touch(1, true);
  }
  EXPECT_THAT(OrderOfEviction(4), ElementsAre(0, 2, 3, 1));
}

// The clock of the policy goes as it is told; what clients had used by then is of the time before.
TEST_F(RankingTest, AVirtualClockGoesAsItIsTold) {
  ns_ =
      Create({.name = "traced", .quota_bytes = 4 * kMiB, .max_objects = 4, .virtual_clock = true});
  ns_.MustPut("k", "v");
  clock_.AdvanceMs(70'000);
  ASSERT_TRUE(ns_->AdvanceClock(2'000).ok());
  {
    ShmClient client(ns_.shared());
    ASSERT_EQ(client.Find("k", clock_.NowMs()).outcome, shm::FindOutcome::kPinned);
    const uint64_t pin = client.page().slot(0).load();
    client.Unpin();
    client.page().touch(0, 0).store(shm::MakeTouch(pin, true));
    client.page().lane(0).touched.store(1);
    ASSERT_TRUE(ns_->AdvanceClock(5'000).ok());
    EXPECT_EQ(ns_->Stats().uses.hit_gap.sum_ms, 2'000u);
  }
  ASSERT_TRUE(ns_->AdvanceClock(3'000).ok()) << "over already";
  EXPECT_TRUE(ns_.Touch("k"));
  EXPECT_EQ(ns_->Stats().uses.hit_gap.sum_ms, 5'000u);
  Open(4);
  EXPECT_EQ(ns_->AdvanceClock(1).code(), absl::StatusCode::kFailedPrecondition);
}

// Of two requests of the same moment the first goes first, each from its end.
TEST_F(RankingTest, LocalRequestsGoInTurn) {
  Open(4, "auto");
  for (int i = 0; i < 4; ++i) ns_.MustPut(KeyOf(i), "v");
  clock_.AdvanceMs(1'000);
  {
    ShmClient client(ns_.shared());
    uint64_t position = 0;
    for (const int block : {1, 0, 3, 2}) {  // chains of two, each told from its end
      ASSERT_EQ(client.Find(KeyOf(block), clock_.NowMs()).outcome, shm::FindOutcome::kPinned);
      const uint64_t pin = client.page().slot(0).load();
      client.Unpin();
      client.page().touch(0, position++).store(shm::MakeTouch(pin, block % 2 == 0));
    }
    client.page().lane(0).touched.store(position);
  }
  EXPECT_THAT(OrderOfEviction(4), ElementsAre(1, 0, 3, 2));
}

// Of what goes on behind one block, that which ended its request goes first: the other may go on.
TEST_F(RankingTest, TheEndOfALocalRequestIsKnown) {
  Open(3, "auto");
  for (int i = 0; i < 2; ++i) ns_.MustPut(KeyOf(i), "v");
  clock_.AdvanceMs(1'000);
  {
    ShmClient client(ns_.shared());
    uint64_t position = 0;
    for (const int block : {1, 0}) {
      ASSERT_EQ(client.Find(KeyOf(block), clock_.NowMs()).outcome, shm::FindOutcome::kPinned);
      const uint64_t pin = client.page().slot(0).load();
      client.Unpin();
      client.page().touch(0, position++).store(shm::MakeTouch(pin, /*end_of_request=*/block == 0));
    }
    client.page().lane(0).touched.store(position);
  }
  Put(2, {}, /*parent=*/0);
  EXPECT_THAT(OrderOfEviction(3), ElementsAre(1, 2, 0));
}

TEST_F(RankingTest, AnUnknownPolicyChangesNothing) {
  Open(4, "arc");
  EXPECT_EQ(ns_->policy(), "arc");
  const absl::Status status = ns_->SetPolicy("clairvoyant").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'clairvoyant'; there are auto, lru"));
  EXPECT_EQ(ns_->policy(), "arc");
}

TEST_F(RankingTest, TheOrderOutlivesAChangeOfPolicy) {
  Open(6);
  for (int i = 0; i < 6; ++i) ns_.MustPut(KeyOf(i), "v");
  clock_.AdvanceMs(1'000);
  EXPECT_TRUE(ns_.Touch(KeyOf(0)));
  EXPECT_TRUE(ns_.Touch(KeyOf(2)));
  std::string before = "lru";
  for (const char* name : {"fifo", "lru"}) {
    const auto previous = ns_->SetPolicy(name);
    ASSERT_TRUE(previous.ok()) << previous.status();
    EXPECT_EQ(std::exchange(before, name), *previous);
    EXPECT_EQ(ns_->policy(), name);
  }
  EXPECT_THAT(OrderOfEviction(6), ElementsAre(1, 3, 4, 5, 0, 2));
}

// One that is asked for a victim while it takes over: the worst are with the new policy by then.
TEST_F(RankingTest, VictimsKeepTheirOrderDuringAChangeOfPolicy) {
  constexpr int kObjects = 5'000;
  Open(kObjects);
  for (int i = 0; i < kObjects; ++i) ns_.MustPut(KeyOf(i), "v");
  clock_.AdvanceMs(1'000);
  std::atomic<bool> stop{false};
  std::thread changer([this, &stop] {
    for (int i = 0; !stop; ++i) EXPECT_TRUE(ns_->SetPolicy(i % 2 == 0 ? "fifo" : "lru").ok());
  });
  for (int i = 0; i < kObjects / 2; ++i) {
    ns_.MustPut("other:" + std::to_string(i), "v");
    ASSERT_FALSE(ns_.Has(KeyOf(i))) << i;
    ASSERT_TRUE(ns_.Has(KeyOf(i + 1))) << i;
  }
  stop = true;
  changer.join();
  EXPECT_EQ(ns_->Stats().objects, static_cast<uint64_t>(kObjects));
}

TEST_F(RankingTest, MissesHaveTheirCauses) {
  Open(2);
  ns_.MustPut("short", "v", {.info = {.ttl_ms = 1'000}});
  ns_.MustPut("erased", "v");
  clock_.AdvanceMs(2'000);
  EXPECT_FALSE(ns_.Has("short"));
  EXPECT_TRUE(ns_.Erase("erased"));
  ns_.MustPut("short", "v");
  ns_.MustPut("erased", "v");
  ns_.MustPut("erased", "w", {.overwrite = true});
  UseStats uses = ns_->Stats().uses;
  EXPECT_EQ(uses.misses_cold, 3u) << "what was erased was not wanted any more";
  EXPECT_EQ(uses.misses_expired, 1u);
  EXPECT_EQ(uses.misses_evicted, 0u);
  // Room for two: what went before the two last ones is forgotten.
  for (const char* key : {"a", "b", "c", "d", "a", "d"}) {
    clock_.AdvanceMs(1'000);
    if (!ns_.Has(key)) ns_.MustPut(key, "v");
  }
  uses = ns_->Stats().uses;
  EXPECT_EQ(uses.misses_evicted, 1u) << "a would still be there in four places";
  EXPECT_EQ(uses.misses_cold, 7u);
  EXPECT_EQ(uses.age_at_eviction.counts[0] + uses.age_at_eviction.counts[1] +
                uses.age_at_eviction.counts[2],
            ns_->Stats().evicted);
  EXPECT_EQ(ns_.Has("d"), true);
}

// A repeat is no use of its own.
TEST_F(RankingTest, ARequestThatLooksAndReadsIsOneUse) {
  Open(2);
  ns_.MustPut("k", "v");
  clock_.AdvanceMs(5'000);
  EXPECT_TRUE(ns_.Touch("k"));
  EXPECT_TRUE(ns_.Touch("k"));
  EXPECT_EQ(ns_->Stats().uses.hits, 1u);
  EXPECT_EQ(ns_->Stats().uses.hit_gap.sum_ms, 5'000u);
}

class AnyPolicy : public RankingTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, AnyPolicy, ::testing::ValuesIn(kAllPolicies));

// Four objects of room, and a request for each of six in turn: LRU hits nothing, and twice the room
// would hold them all.
TEST_P(AnyPolicy, SaysWhatTwiceTheCapacityWouldHit) {
  Open(4, "lru");
  ASSERT_TRUE(ns_->SetPolicy(GetParam()).ok());
  uint64_t stored = 0, hits = 0;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 6; ++i) {
      clock_.AdvanceMs(1'000);
      if (ns_.Touch(KeyOf(i))) {
        ++hits;
      } else {
        ns_.MustPut(KeyOf(i), "v");
        ++stored;
      }
    }
  }
  const UseStats uses = ns_->Stats().uses;
  EXPECT_EQ(uses.hits, hits);
  EXPECT_EQ(uses.misses_cold, 6u);
  EXPECT_EQ(uses.misses_evicted, stored - 6);
  EXPECT_EQ(uses.misses_expired, 0u);
  EXPECT_DOUBLE_EQ(uses.HitRatio(), static_cast<double>(hits) / 60);
  EXPECT_DOUBLE_EQ(uses.HitRatioAtTwiceTheCapacity(), 0.9);
  uint64_t gaps = 0;
  for (const uint64_t count : uses.miss_gap.counts) gaps += count;
  EXPECT_EQ(gaps, stored - 6);
  EXPECT_EQ(uses.miss_gap.sum_ms, 6'000 * (stored - 6));
  EXPECT_EQ(uses.hit_gap.sum_ms, 6'000 * hits);
}

// The ranking hears of it later; its record may be anybody's by then, or free.
TEST_P(AnyPolicy, WhatGoesAtOnceIsNobodyElses) {
  Open(1'000, GetParam());
  for (int i = 0; i < 3; ++i) ns_.MustPut(KeyOf(i), std::to_string(i));
  Put(3, {.request = ns_->NewRequest()}, /*parent=*/2);
  ASSERT_TRUE(ns_.Erase(KeyOf(3)));
  (void)ns_->Stats();  // it hears of it now
  for (int i = 4; i < 10; ++i) ns_.MustPut(KeyOf(i), std::to_string(i));
  for (int i = 0; i < 10; ++i) {
    if (i == 3) continue;
    EXPECT_EQ(ns_.Get(KeyOf(i)), std::to_string(i));
  }
  EXPECT_EQ(ns_->Stats().objects, 9u);
  EXPECT_EQ(ns_->Stats().evicted, 0u);
}

TEST_P(AnyPolicy, PassesOverPinsOfDaemonAndClients) {
  Open(64, GetParam());
  for (int i = 0; i < 64; ++i) ns_.MustPut(KeyOf(i), "v");
  std::vector<ReadLease> pins;
  for (int i = 0; i < 20; ++i) pins.push_back(*ns_.Lookup(KeyOf(i)));
  ShmClient client(ns_.shared());
  for (int i = 20; i < 40; ++i) {
    ASSERT_EQ(client.Find(KeyOf(i), clock_.NowMs(), static_cast<uint32_t>(i)).outcome,
              shm::FindOutcome::kPinned);
  }
  for (int i = 0; i < 200; ++i) {
    clock_.AdvanceMs(50);
    ns_.MustPut("other:" + std::to_string(i), "v");
    if (i % 20 == 0) {
      ASSERT_TRUE(ns_->SetPolicy(GetParam()).ok());
    }
  }
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(ns_.Has(KeyOf(i))) << i;
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u) << "a pinned object was chosen as a victim";
}

// Threads that store, read, erase and evict beside one that changes the policy: every object is
// ranked as long as it is there, and not longer.
TEST_P(AnyPolicy, LosesNobodyUnderLoad) {
  Open(300, GetParam());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < Scaled(4'000); ++i) {
        const uint64_t random = Mix(t << 32 | static_cast<uint64_t>(i));
        const std::string key = KeyOf(static_cast<int>(random % 1'000));
        const UseContext use{.request = ns_->NewRequest(), .ends_request = random % 7 == 0};
        if (random >> 60 == 0) {
          ns_->Erase(Id(key));
        } else if (const auto lease = ns_->Lookup(Id(key), /*touch=*/true, use); !lease) {
          ObjectInfo info{.class_id = static_cast<uint8_t>(random >> 20 & 3)};
          if (random % 3 == 0) info.parent_key = KeyOf(static_cast<int>(random >> 8) % 1'000);
          auto reserved = ns_->Reserve({.id = Id(key), .size_bytes = 8, .info = &info});
          if (reserved.ok() && reserved->has_value()) {
            (void)ns_->Commit(**std::move(reserved), use);
          }
        }
        clock_.AdvanceMs(random >> 61);
      }
    });
  }
  threads.emplace_back([this] {
    for (int i = 0; i < Scaled(200); ++i)
      EXPECT_TRUE(ns_->SetPolicy(kAllPolicies[i % std::size(kAllPolicies)]).ok());
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(ns_->SetPolicy(GetParam()).ok());
  const NamespaceStats before = ns_->Stats();
  EXPECT_LE(before.objects, 300u);
  // As many new ones as there is room for need everybody else to be found.
  for (int i = 0; i < 3'000; ++i) {
    clock_.AdvanceMs(200);
    ns_.MustPut("new:" + std::to_string(i), "v");
  }
  EXPECT_EQ(ns_->Stats().objects, 300u);
}

}  // namespace
}  // namespace infercache::store
