// Lookup, Probe, Erase, Flush, List: what readers see and what it counts as.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/part_table.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Read : public StoreFixture {
 protected:
  NamespaceVerbs ns_ = Create("reads");
  const Hash128 model_ = Fingerprint().hash();
  const Hash128 other_model_ = Fingerprint::Make({{"model", "other"}})->hash();
};

TEST_F(Read, LeaseSaysWhatTheWriterSaid) {
  const PutOptions options = {
      .info = {.kind = ObjectKind::kActivation,
               .compute_cost_ms = 12.5f,
               .class_id = 15,
               .ttl_ms = 60'000,
               .parent_key = "the block before"},
      .parts = {{DataType::kBFloat16, {2, 3}, 12}, {DataType::kBytes, {}, 4}}};
  ns_.MustPut("k", "0123456789abcdef", options);
  const auto lease = ns_.Lookup("k");
  ASSERT_TRUE(lease);
  EXPECT_EQ(lease->key(), "k");
  EXPECT_EQ(lease->parts(), options.parts);
  const ObjectInfo info = lease->info();
  EXPECT_EQ(info.kind, ObjectKind::kActivation);
  EXPECT_EQ(info.compute_cost_ms, 12.5f);
  EXPECT_EQ(info.class_id, 15);
  EXPECT_EQ(info.ttl_ms, 60'000u);
  EXPECT_EQ(info.parent_key, "");
}

TEST_F(Read, LookupCountsHitsMissesBytesAndSavings) {
  ns_.MustPut("cheap", "12345");
  ns_.MustPut("dear", "1234567890", {.info = {.compute_cost_ms = 2.5f}});
  EXPECT_TRUE(ns_.Lookup("cheap"));
  EXPECT_TRUE(ns_.Lookup("dear"));
  EXPECT_TRUE(ns_.Lookup("dear"));
  EXPECT_FALSE(ns_.Lookup("absent"));
  EXPECT_FALSE(ns_.Lookup("dear", other_model_));
  const NamespaceStats stats = ns_->Stats();
  EXPECT_EQ(stats.hits, 3u);
  EXPECT_EQ(stats.misses, 2u);
  EXPECT_EQ(stats.hit_bytes, 25u);
  EXPECT_EQ(stats.saved_compute_us, 5'000u);
}

TEST_F(Read, ProbeCountsNothing) {
  ns_.MustPut("k", "12345", {.info = {.compute_cost_ms = 1}});
  EXPECT_EQ(ns_->Probe({"k", model_}, /*touch=*/false), 5u);
  EXPECT_EQ(ns_->Probe({"k", model_}, /*touch=*/true), 5u);
  EXPECT_EQ(ns_->Probe({"absent", model_}, /*touch=*/true), std::nullopt);
  const NamespaceStats stats = ns_->Stats();
  EXPECT_EQ(stats.hits, 0u);
  EXPECT_EQ(stats.misses, 0u);
  EXPECT_EQ(stats.hit_bytes, 0u);
  EXPECT_EQ(stats.saved_compute_us, 0u);
  EXPECT_EQ(stats.pins, 0u);
}

TEST_F(Read, SizeIsThePayloadNotTheBlock) {
  for (const size_t size : {1u, 7u, 8u, 63u, 64u, 65u, 4095u, 4096u, 4097u, 100'001u}) {
    const std::string key = std::to_string(size);
    ns_.MustPut(key, std::string(size, 'x'));
    EXPECT_EQ(ns_->Probe({key, model_}, false), size);
    EXPECT_EQ(ns_.Lookup(key)->bytes().size(), size);
  }
}

TEST_F(Read, PinsAreCountedUntilTheLeaseGoes) {
  ns_.MustPut("k", "value");
  std::optional<ReadLease> one = ns_.Lookup("k");
  std::optional<ReadLease> two = ns_.Lookup("k");
  EXPECT_EQ(one->bytes().data(), two->bytes().data()) << "two copies of one object";
  EXPECT_GT(ns_->Stats().pins, 0u);
  ReadLease moved = *std::move(one);
  one.reset();
  two.reset();
  EXPECT_EQ(Bytes(moved), "value");
  EXPECT_GT(ns_->Stats().pins, 0u);
  { const ReadLease last = std::move(moved); }
  EXPECT_EQ(ns_->Stats().pins, 0u);
}

TEST_F(Read, LeaseAssignmentDropsTheOldPin) {
  ns_.MustPut("a", "1");
  ns_.MustPut("b", "2");
  ReadLease lease = *ns_.Lookup("a");
  lease = *ns_.Lookup("b");
  EXPECT_EQ(Bytes(lease), "2");
  EXPECT_TRUE(ns_.Erase("a"));
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u) << "a is still pinned";
  ReadLease& alias = lease;
  lease = std::move(alias);
  EXPECT_EQ(Bytes(lease), "2");
}

TEST_F(Read, LeaseMayDieOnAnotherThread) {
  ns_.MustPut("k", "value");
  std::optional<ReadLease> lease = ns_.Lookup("k");
  std::thread([moved = *std::move(lease)]() { EXPECT_EQ(Bytes(moved), "value"); }).join();
  lease.reset();
  EXPECT_EQ(ns_->Stats().pins, 0u);
}

TEST_F(Read, EraseHidesAtOnceAndReadersKeepIt) {
  ns_.MustPut("k", "value");
  std::optional<ReadLease> reader = ns_.Lookup("k");
  EXPECT_TRUE(ns_.Erase("k"));
  EXPECT_FALSE(ns_.Erase("k"));
  EXPECT_EQ(ns_.Get("k"), std::nullopt);
  EXPECT_FALSE(ns_.Has("k"));
  ns_.MaintainAll();
  EXPECT_EQ(Bytes(*reader), "value");
  EXPECT_EQ(reader->key(), "k");
  EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  EXPECT_EQ(ns_->Stats().objects, 0u);
  EXPECT_EQ(ns_->Stats().erased, 1u);

  ns_.MustPut("k", "another");  // beside the one in limbo
  EXPECT_EQ(Bytes(*reader), "value");
  reader.reset();
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
  EXPECT_EQ(ns_.Get("k"), "another");
}

TEST_F(Read, EraseOfNothingIsFalse) {
  EXPECT_FALSE(ns_.Erase("absent"));
  ns_.MustPut("k", "value");
  EXPECT_FALSE(ns_.Erase("k", other_model_));
  EXPECT_EQ(ns_->Stats().erased, 0u);
  EXPECT_TRUE(ns_.Has("k"));
}

TEST_F(Read, FlushErasesByPrefixUnderEveryFingerprint) {
  ns_.MustPut("a:1", "x");
  ns_.MustPut("a:2", "x", {.fingerprint = other_model_});
  ns_.MustPut("a", "x");
  ns_.MustPut("b:1", "x");
  EXPECT_EQ(ns_->Flush("a:"), 2u);
  EXPECT_FALSE(ns_.Has("a:2", other_model_));
  EXPECT_THAT(ns_.Keys(), ElementsAre("a", "b:1"));
  EXPECT_THAT(Events(EventKind::kFlushed), SizeIs(2));
  EXPECT_EQ(ns_->Flush("zzz"), 0u);
  EXPECT_EQ(ns_->Flush(""), 2u);
  EXPECT_EQ(ns_->Flush(""), 0u);
}

TEST_F(Read, FlushMatchesLongKeysInFull) {
  const std::string stem(600, 'p');
  ns_.MustPut(stem + "1", "x");
  ns_.MustPut(stem + "2", "x");
  EXPECT_EQ(ns_->Flush(stem + "1"), 1u);
  EXPECT_THAT(ns_.Keys(), ElementsAre(stem + "2"));
  EXPECT_EQ(ns_->Flush(stem + "2x"), 0u);
}

TEST_F(Read, FlushLeavesReadersAndReservationsAlone) {
  ns_.MustPut("read", "value");
  const std::optional<ReadLease> reader = ns_.Lookup("read");
  WriteLease reservation = ns_.Reserve("reserved", "value");
  EXPECT_EQ(ns_->Flush(""), 1u);
  EXPECT_EQ(Bytes(*reader), "value");
  EXPECT_EQ(*ns_->Commit(std::move(reservation)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("reserved"), "value");
}

TEST_F(Read, FlushDoesNotCountTheExpired) {
  ns_.MustPut("dead", "v", {.info = {.ttl_ms = 100}});
  ns_.MustPut("alive", "v");
  clock_.AdvanceMs(1'000);
  EXPECT_EQ(ns_->Flush(""), 1u);
  EXPECT_EQ(ns_->Stats().expired, 1u);
  EXPECT_EQ(ns_->Stats().erased, 1u);
}

TEST_F(Read, ListIsInByteOrder) {
  const std::vector<std::string> keys = {
      std::string("\0", 1), "A", "B", "a", "a\x7f", "a\x80", "aa", "b", "\xff"};
  for (const std::string& key : keys) ns_.MustPut(key, "v");
  std::vector<std::string> sorted = keys;
  std::sort(sorted.begin(), sorted.end());  // std::string compares bytes as unsigned
  EXPECT_EQ(ns_.Keys(), sorted);
}

TEST_F(Read, ListPagesWithoutLossOrRepeat) {
  std::vector<std::string> expected;
  for (int i = 0; i < 257; ++i) {
    expected.push_back("block:" + std::to_string(i));
    ns_.MustPut(expected.back(), "v");
    ns_.MustPut("other:" + std::to_string(i), "v");
  }
  std::sort(expected.begin(), expected.end());
  std::vector<std::string> listed;
  std::string after;
  int pages = 0;
  while (true) {
    const ListPage page = ns_->List(model_, "block:", after, 10);
    for (const ListEntry& entry : page.entries) listed.push_back(entry.key);
    ++pages;
    if (!page.more) break;
    ASSERT_THAT(page.entries, SizeIs(10));
    ASSERT_LT(pages, 100);
    after = page.entries.back().key;
  }
  EXPECT_EQ(listed, expected);
  EXPECT_EQ(pages, 26);
}

TEST_F(Read, ListSaysWhetherThereIsMore) {
  for (const char* key : {"a", "b", "c"}) ns_.MustPut(key, "v");
  EXPECT_TRUE(ns_->List(model_, "", "", 2).more);
  EXPECT_FALSE(ns_->List(model_, "", "", 3).more) << "exactly the limit";
  EXPECT_FALSE(ns_->List(model_, "", "a", 2).more);
  EXPECT_THAT(ns_->List(model_, "", "c", 2).entries, IsEmpty());
  EXPECT_FALSE(ns_->List(model_, "", "c", 2).more);
}

TEST_F(Read, ListEndsWhereItsBytesEndAndGoesOnThere) {
  std::vector<std::string> expected;
  for (int i = 0; i < 100; ++i) {
    expected.push_back("k" + std::to_string(1000 + i));  // five bytes, and no part table
    ns_.MustPut(expected.back(), "v");
  }
  std::vector<std::string> listed;
  for (bool more = true; more;) {
    const ListPage page = ns_->List(model_, "", listed.empty() ? "" : listed.back(), 1000, 35);
    more = page.more;
    EXPECT_THAT(page.entries, SizeIs(more ? 7 : 2));
    for (const ListEntry& entry : page.entries) listed.push_back(entry.key);
    ASSERT_LE(listed.size(), 100u);
  }
  EXPECT_EQ(listed, expected);
  EXPECT_THAT(ns_->List(model_, "", "", 1000, 4).entries, SizeIs(1)) << "one, whatever it takes";
  EXPECT_FALSE(ns_->List(model_, "", "k1098", 1000, 4).more);
}

TEST_F(Read, ListStartsBehindAfterEvenIfThatIsNotThere) {
  for (const char* key : {"a", "c", "e"}) ns_.MustPut(key, "v");
  const ListPage page = ns_->List(model_, "", "b", 10);
  ASSERT_THAT(page.entries, SizeIs(2));
  EXPECT_EQ(page.entries[0].key, "c");
  EXPECT_EQ(page.entries[1].key, "e");
}

TEST_F(Read, ListSaysWhatTheObjectIs) {
  const PutOptions options = {
      .info = {.kind = ObjectKind::kKv, .compute_cost_ms = 3, .class_id = 2, .ttl_ms = 5'000},
      .parts = {{DataType::kFloat32, {2}, 8}, {DataType::kInt8, {}, 1}}};
  ns_.MustPut("k", "123456789", options);
  ns_.MustPut("hidden", "v", {.fingerprint = other_model_});
  const ListPage page = ns_->List(model_, "", "", 10);
  ASSERT_THAT(page.entries, SizeIs(1));
  EXPECT_EQ(page.entries[0].key, "k");
  EXPECT_EQ(page.entries[0].size_bytes, 9u);
  EXPECT_EQ(page.entries[0].info, options.info);
  EXPECT_EQ(*DecodePartTable(page.entries[0].part_table), options.parts);
  EXPECT_THAT(ns_->List(other_model_, "", "", 10).entries, SizeIs(1));
}

TEST_F(Read, ListNeitherCountsNorKeepsPins) {
  for (int i = 0; i < 50; ++i) ns_.MustPut("k" + std::to_string(i), "v");
  EXPECT_THAT(ns_.Keys(), SizeIs(50));
  const NamespaceStats stats = ns_->Stats();
  EXPECT_EQ(stats.hits, 0u);
  EXPECT_EQ(stats.misses, 0u);
  EXPECT_EQ(stats.pins, 0u);
}

class Checksums : public StoreFixture {
 protected:
  // What a writer with a mapping of the arena, or bad memory, can do at any time.
  void Spoil(std::string_view key, size_t at) {
    const auto lease = ns_.Lookup(key);
    ASSERT_TRUE(lease);
    const_cast<std::byte&>(lease->bytes()[at]) ^= std::byte{1};
  }

  NamespaceVerbs ns_ =
      Create(NamespaceSpec{.name = "checked", .quota_bytes = kMiB, .checksums = true});
};

TEST_F(Checksums, SpoiltObjectIsAMissAndGoes) {
  const std::string value(10'000, 'v');
  for (const size_t at : {size_t{0}, value.size() / 2, value.size() - 1}) {
    ns_.MustPut("k", value);
    EXPECT_EQ(ns_.Get("k"), value);
    Spoil("k", at);
    EXPECT_EQ(ns_.Get("k"), std::nullopt) << "byte " << at;
    EXPECT_FALSE(ns_.Has("k"));
  }
  EXPECT_EQ(ns_->Stats().integrity_failures, 3u);
  EXPECT_EQ(ns_->Stats().misses, 3u);
  EXPECT_EQ(ns_->Stats().pins, 0u);
  EXPECT_EQ(ns_->Stats().objects, 0u);
}

TEST_F(Checksums, WholeObjectsPass) {
  for (const size_t size : {0u, 1u, 7u, 64u, 4097u}) {
    ns_.MustPut(std::to_string(size), std::string(size, 'x'));
    EXPECT_EQ(ns_.Get(std::to_string(size)), std::string(size, 'x'));
  }
  EXPECT_EQ(ns_->Stats().integrity_failures, 0u);
}

TEST_F(Checksums, AreOffUnlessAskedFor) {
  ns_ = Create("unchecked");
  ns_.MustPut("k", "value");
  Spoil("k", 0);
  EXPECT_TRUE(ns_.Get("k").has_value());
  EXPECT_EQ(ns_->Stats().integrity_failures, 0u);
}

}  // namespace
}  // namespace infercache::store
