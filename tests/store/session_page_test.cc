// Reading and pinning in shared memory beside the daemon: what a pin there protects, and what a
// client that dies, or lies, can do.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/store/shm_client.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using shm::FindOutcome;
using shm::FindResult;

class SharedIndex : public StoreFixture {
 protected:
  FindResult Find(std::string_view key, uint32_t slot = 0) {
    return client_->Find(key, clock_.NowMs(), slot);
  }
  std::optional<std::string> Read(std::string_view key) {
    const FindResult found = Find(key);
    EXPECT_NE(found.outcome, FindOutcome::kChanging);
    if (found.outcome != FindOutcome::kPinned) return std::nullopt;
    std::string value = ToString(client_->Bytes(found));
    client_->Unpin();
    return value;
  }
  void TearDown() override {
    client_.reset();
    StoreFixture::TearDown();
  }

  NamespaceVerbs ns_ = Create("shared");
  std::unique_ptr<ShmClient> client_ = std::make_unique<ShmClient>(ns_.shared());
};

TEST_F(SharedIndex, ReadersSeeWhatIsCommitted) {
  EXPECT_EQ(Read("k"), std::nullopt);
  WriteLease lease = ns_.Reserve("k", "value");
  EXPECT_EQ(Read("k"), std::nullopt);
  EXPECT_EQ(*ns_->Commit(std::move(lease)), CommitOutcome::kStored);
  EXPECT_EQ(Read("k"), "value");
  ns_.MustPut("k", "another", {.overwrite = true});
  EXPECT_EQ(Read("k"), "another");
  EXPECT_TRUE(ns_.Erase("k"));
  EXPECT_EQ(Read("k"), std::nullopt);
}

TEST_F(SharedIndex, ReadersSeeKeysAndPartsOfEveryLength) {
  for (const size_t length : {1u, 41u, 42u, 43u, 100u, 1024u}) {
    const std::string key(length, 'k');
    ns_.MustPut(key, "12345678", {.parts = {{DataType::kFloat32, {2}, 8}}});
    const FindResult found = Find(key);
    ASSERT_EQ(found.outcome, FindOutcome::kPinned) << length;
    EXPECT_EQ(client_->index().key(*found.record), key);
    EXPECT_EQ(found.record->size(), 8u);
    EXPECT_FALSE(client_->index().part_table(*found.record).empty());
    client_->Unpin();
    EXPECT_EQ(Find(key + "x").outcome, FindOutcome::kMiss);
  }
}

TEST_F(SharedIndex, FingerprintsKeepModelsApart) {
  const Hash128 model = Fingerprint::Make({{"model", "a"}})->hash();
  ns_.MustPut("k", "of a", {.fingerprint = model});
  EXPECT_EQ(Read("k"), std::nullopt);
  EXPECT_EQ(client_->Find("k", clock_.NowMs(), 0, model).outcome, FindOutcome::kPinned);
  client_->Unpin();
}

TEST_F(SharedIndex, ReadersJudgeExpiryThemselves) {
  ns_.MustPut("k", "value", {.info = {.ttl_ms = 1'000}});
  clock_.AdvanceMs(999);
  EXPECT_EQ(Read("k"), "value");
  clock_.AdvanceMs(101);
  EXPECT_EQ(Read("k"), std::nullopt) << "no upkeep has happened yet";
}

TEST_F(SharedIndex, MissLeavesTheSlotFree) {
  ns_.MustPut("k", "value");
  EXPECT_EQ(Find("absent").outcome, FindOutcome::kMiss);
  EXPECT_EQ(client_->page().slot(0).load(), 0u);
}

TEST_F(SharedIndex, PinKeepsAnErasedObject) {
  ns_.MustPut("k", "value");
  const FindResult found = Find("k");
  ASSERT_EQ(found.outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("k"));
  ns_.MaintainAll();
  EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  // Pressure: everything that may be reused is.
  for (int i = 0; i < 600; ++i) ns_.MustPut("other:" + std::to_string(i), std::string(4096, 'o'));
  EXPECT_EQ(ToString(client_->Bytes(found)), "value");
  EXPECT_EQ(client_->index().key(*found.record), "k");
  client_->Unpin();
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
}

TEST_F(SharedIndex, PinKeepsAnOverwrittenAndAnExpiredObject) {
  ns_.MustPut("k", "old");
  const FindResult old = Find("k", 0);
  ns_.MustPut("k", "new", {.overwrite = true, .info = {.ttl_ms = 100}});
  const FindResult fresh = Find("k", 1);
  ASSERT_EQ(old.outcome, FindOutcome::kPinned);
  ASSERT_EQ(fresh.outcome, FindOutcome::kPinned);
  EXPECT_NE(old.record_number, fresh.record_number);
  clock_.AdvanceMs(10'000);
  ns_.MaintainAll();
  for (int i = 0; i < 600; ++i) ns_.MustPut("other:" + std::to_string(i), std::string(4096, 'o'));
  EXPECT_EQ(ToString(client_->Bytes(old)), "old");
  EXPECT_EQ(ToString(client_->Bytes(fresh)), "new");
  client_->Unpin(0);
  client_->Unpin(1);
}

TEST_F(SharedIndex, PinnedObjectsAreNotEvicted) {
  ns_.MustPut("k", "value");
  ASSERT_EQ(Find("k").outcome, FindOutcome::kPinned);
  for (int i = 0; i < 2'000; ++i) {
    clock_.AdvanceMs(1);
    ns_.MustPut("other:" + std::to_string(i), std::string(4096, 'o'));
  }
  EXPECT_TRUE(ns_.Has("k"));
  client_->Unpin();
}

TEST_F(SharedIndex, EverythingPinnedRefusesAndRecovers) {
  const std::string value(kMiB / 16, 'v');
  for (uint32_t i = 0; i < 16; ++i) {
    ns_.MustPut("k" + std::to_string(i), value);
    ASSERT_EQ(Find("k" + std::to_string(i), i).outcome, FindOutcome::kPinned);
  }
  EXPECT_EQ(ns_.TryReserve("new", value.size()).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ns_->Stats().objects, 16u);
  client_->Unpin(5);
  ns_.MustPut("new", value);
  EXPECT_FALSE(ns_.Has("k5"));
  EXPECT_EQ(ns_->Stats().objects, 16u);
}

// Puts free what they need without waiting for upkeep, also when limbo must be scanned for it.
TEST_F(SharedIndex, PutsReapLimboThemselves) {
  const std::string half(kMiB / 2, 'v');
  for (int i = 0; i < 20; ++i) {
    ns_.MustPut("k", half, {.overwrite = true});
    ASSERT_LE(ns_->Stats().used_bytes, kMiB);
  }
}

// Each erased object had all pages read for it while sessions held much of what had been erased.
TEST_F(SharedIndex, WhatSessionsHoldIsNoReasonToReadTheirPagesAgain) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("held", 16 * kMiB);
  client_ = std::make_unique<ShmClient>(ns_.shared());
  ns_.MustPut("held", std::string(2 * kMiB, 'v'));
  ns_.MustPut("small", std::string(4096, 'v'));
  ns_.MustPut("large", std::string(2 * kMiB, 'v'));
  ASSERT_EQ(Find("held").outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("held"));
  const uint64_t held = ns_->Stats().limbo_bytes;
  EXPECT_TRUE(ns_.Erase("small"));
  EXPECT_GT(ns_->Stats().limbo_bytes, held) << "the pages were read for it";
  EXPECT_TRUE(ns_.Erase("large"));
  EXPECT_EQ(ns_->Stats().limbo_bytes, held) << "it is worth it again";
}

// A session that is attached but reads nothing must not cost anybody his objects.
TEST_F(SharedIndex, IdleSessionsDoNotMakePutsEvictMore) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("full", QuotaForLiveObjects(32, 16 * 1024));
  client_ = std::make_unique<ShmClient>(ns_.shared());
  const std::string value(16 * 1024, 'v');
  for (int i = 0; i < 200; ++i) {
    ns_.MustPut("k" + std::to_string(i), value);
    if (i % 3 == 0) ns_.MaintainAll();
    ASSERT_GE(ns_->Stats().objects, std::min<uint64_t>(static_cast<uint64_t>(i) + 1, 32));
  }
}

TEST_F(SharedIndex, OnePutEvictsAtMost64WithSessionsToo) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("full", 4 * kMiB, 4096);
  client_ = std::make_unique<ShmClient>(ns_.shared());
  for (int i = 0; ns_->Stats().evicted == 0; ++i) {
    ASSERT_LT(i, 10'000);
    ns_.MustPut("k" + std::to_string(i), std::string(2048, 'v'));
  }
  for (int i = 0; i < 40; ++i) {
    const uint64_t before = ns_->Stats().evicted;
    ASSERT_TRUE(ns_.Put("large:" + std::to_string(i), std::string(32 * 2048, 'l')).ok());
    ASSERT_LE(ns_->Stats().evicted - before, 64u);
  }
}

TEST_F(SharedIndex, DeathOfASessionGivesItsPinsBack) {
  std::vector<FindResult> pins;
  for (uint32_t i = 0; i < 32; ++i) {
    ns_.MustPut("k" + std::to_string(i), std::string(1000, 'v'));
    ASSERT_EQ(Find("k" + std::to_string(i), i).outcome, FindOutcome::kPinned);
  }
  EXPECT_EQ(ns_->Flush(""), 32u);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().objects, 0u);
  EXPECT_GE(ns_->Stats().limbo_bytes, 32'000u);
  client_->Die();  // with all slots set
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

TEST_F(SharedIndex, DeathOfOneSessionLeavesTheOthersPins) {
  ns_.MustPut("k", "value");
  ShmClient survivor(ns_.shared());
  const FindResult kept = survivor.Find("k", clock_.NowMs());
  ASSERT_EQ(kept.outcome, FindOutcome::kPinned);
  ASSERT_EQ(Find("k").outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("k"));
  client_->Die();
  for (int i = 0; i < 600; ++i) ns_.MustPut("other:" + std::to_string(i), std::string(4096, 'o'));
  EXPECT_EQ(ToString(survivor.Bytes(kept)), "value");
  survivor.Unpin();
  survivor.Die();
  ns_->Flush("");
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

// The word that tells a client of its revocation is in memory that it writes.
TEST_F(SharedIndex, DetachingRevokesAndTheWordInThePageOnlySaysSo) {
  ns_.MustPut("k", "value");
  ASSERT_EQ(Find("k").outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("k"));
  ns_.MaintainAll();
  EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  client_->page().Revoke();
  ns_.MaintainAll();
  EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  client_->Die();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
}

// A page is the client's to spoil. Whatever it says, nothing but memory of that namespace can be
// held.
TEST_F(SharedIndex, GarbageInAPageHarmsNobody) {
  const std::span<std::byte> memory = client_->daemons_page()->memory();
  std::memset(memory.data(), 0xff, memory.size());
  auto* header = reinterpret_cast<shm::SessionHeader*>(memory.data());
  header->revoked.store(0);
  for (int i = 0; i < 1'000; ++i) ns_.MustPut("k" + std::to_string(i), std::string(4096, 'v'));
  ns_.MaintainAll();
  EXPECT_LE(ns_->Stats().used_bytes, kMiB);
  ns_->Flush("");
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u) << "a slot that names no record held something";
}

TEST_F(SharedIndex, SlotCountIsClamped) {
  client_->page().RaiseSlotsInUse(0xffffffffu);
  EXPECT_EQ(client_->page().slots_in_use(), client_->page().slot_capacity());
  ns_.MustPut("k", "value");
  EXPECT_TRUE(ns_.Erase("k"));
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

// The daemon keeps one bit a record in a scan, not the generation: a slot that was not cleared yet
// counts for whoever has the record now, and only for as long as it stands.
TEST_F(SharedIndex, PinOfAnEarlierIncarnationHoldsNoLongerThanItsSlot) {
  ns_.MustPut("k", "value");
  ASSERT_EQ(Find("k", 0).outcome, FindOutcome::kPinned);
  const uint64_t stale = client_->page().slot(0).load();
  client_->Unpin(0);
  EXPECT_TRUE(ns_.Erase("k"));
  ns_.MaintainAll();
  ns_.MustPut("l", "other value");  // takes the same record
  const FindResult reused = Find("l", 1);
  ASSERT_EQ(reused.record_number, static_cast<uint32_t>(stale >> 32));
  client_->Unpin(1);
  client_->page().slot(0).store(stale);
  EXPECT_TRUE(ns_.Erase("l"));
  ns_.MaintainAll();
  EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  client_->Unpin(0);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
}

// A record that is linked but in flux: the reader must not call that a miss.
TEST_F(SharedIndex, ChangeUnderTheReaderIsNotAMiss) {
  ns_.MustPut("k", "value");
  const FindResult found = Find("k");
  ASSERT_EQ(found.outcome, FindOutcome::kPinned);
  client_->Unpin();
  auto& generation = const_cast<std::atomic<uint64_t>&>(found.record->generation);
  generation.fetch_add(1);
  EXPECT_EQ(Find("k").outcome, FindOutcome::kChanging);
  EXPECT_EQ(client_->page().slot(0).load(), 0u);
  generation.fetch_sub(1);
  EXPECT_EQ(Read("k"), "value");
}

TEST_F(SharedIndex, HeaderIsChecked) {
  const std::span<const std::byte> memory = ns_->index_memory();
  EXPECT_TRUE(shm::CheckIndexHeader(memory));
  EXPECT_FALSE(shm::CheckIndexHeader(memory.first(memory.size() - 4096)));
  EXPECT_FALSE(shm::CheckIndexHeader(memory.first(100)));
  EXPECT_FALSE(shm::CheckIndexHeader({}));
  // Each field spoilt in turn, in a copy of the first page that claims to be the whole segment.
  const auto check_with = [&](auto&& spoil) {
    std::vector<std::byte> copy(memory.begin(), memory.end());
    spoil(*reinterpret_cast<shm::IndexHeader*>(copy.data()));
    return shm::CheckIndexHeader(copy);
  };
  EXPECT_TRUE(check_with([](shm::IndexHeader&) {}));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.magic ^= 1; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { ++h.layout_version; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.bucket_count = 0; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.bucket_count = 1u << 31; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.overflow_bucket_count = ~0u; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.record_capacity = ~0u; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.records_offset += 1; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.records_offset = ~uint64_t{63}; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.heap_bytes += 1 << 20; }));
  EXPECT_FALSE(check_with([](shm::IndexHeader& h) { h.segment_bytes -= 64; }));
}

// As docs/shared_memory.md has it: clients of another build find their buckets by it.
TEST_F(SharedIndex, ABucketIsAShareOfTheHash) {
  OpenStore({.capacity_bytes = 64 * kMiB, .shards = 1, .background = false});
  ns_ = Create("small", 4 * kMiB, /*max_objects=*/28);
  client_ = std::make_unique<ShmClient>(ns_.shared());
  const shm::IndexView& index = client_->index();
  ASSERT_EQ(index.header().bucket_count, 7u);
  EXPECT_EQ(index.bucket_of({.lo = ~uint64_t{0}, .hi = 0xffffffff}), 0u);
  EXPECT_EQ(index.bucket_of({.lo = 0, .hi = uint64_t{0x24924925} << 32}), 1u);
  EXPECT_EQ(index.bucket_of({.lo = 0, .hi = uint64_t{0x24924924} << 32}), 0u);
  EXPECT_EQ(index.bucket_of({.lo = 0, .hi = ~uint64_t{0}}), 6u);
}

// Thousands of keys in a small table: long chains, overflow buckets coming and going.
TEST_F(SharedIndex, FindsEverythingInFullTables) {
  OpenStore({.capacity_bytes = 64 * kMiB, .shards = 1, .background = false});
  ns_ = Create("dense", 4 * kMiB, /*max_objects=*/8'192);
  client_ = std::make_unique<ShmClient>(ns_.shared());
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 8'000; ++i) ns_.MustPut("k" + std::to_string(i), std::to_string(i));
    for (int i = 0; i < 8'000; ++i) ASSERT_EQ(Read("k" + std::to_string(i)), std::to_string(i));
    for (int i = 0; i < 8'000; i += 2) ASSERT_TRUE(ns_.Erase("k" + std::to_string(i)));
    for (int i = 0; i < 8'000; ++i) {
      ASSERT_EQ(Read("k" + std::to_string(i)).has_value(), i % 2 == 1) << i;
    }
    EXPECT_EQ(ns_->Flush(""), 4'000u);
  }
}

}  // namespace
}  // namespace infercache::store
