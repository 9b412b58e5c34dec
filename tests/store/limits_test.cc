// What Reserve refuses: each limit and the value behind it, and that the error names the field.

#include "common/limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::HasSubstr;

class Limits : public StoreFixture {
 protected:
  void ExpectAccepted(std::string_view key, uint64_t size, const PutOptions& options = {}) {
    auto reserved = ns_.TryReserve(key, size, options);
    EXPECT_TRUE(reserved.ok()) << reserved.status();
  }
  void ExpectRefused(std::string_view key, uint64_t size, const PutOptions& options,
                     absl::StatusCode code, const std::vector<std::string>& message_parts) {
    const NamespaceStats before = ns_->Stats();
    const auto reserved = ns_.TryReserve(key, size, options);
    EXPECT_EQ(reserved.status().code(), code) << reserved.status();
    for (const std::string& part : message_parts) {
      EXPECT_THAT(std::string(reserved.status().message()), HasSubstr(part));
    }
    const NamespaceStats after = ns_->Stats();
    EXPECT_EQ(after.used_bytes, before.used_bytes) << "a refused put kept bytes";
    EXPECT_EQ(after.reservations, before.reservations);
  }
  void ExpectInvalid(std::string_view key, uint64_t size, const PutOptions& options,
                     const std::vector<std::string>& message_parts) {
    ExpectRefused(key, size, options, absl::StatusCode::kInvalidArgument, message_parts);
  }

  NamespaceVerbs ns_ = Create("limits");
};

TEST_F(Limits, KeyLength) {
  ExpectInvalid("", 1, {}, {"key"});
  ExpectAccepted("k", 1);
  ExpectAccepted(std::string(kMaxKeyBytes, 'k'), 1);
  ExpectInvalid(std::string(kMaxKeyBytes + 1, 'k'), 1, {}, {"key", "1025", "1024"});
}

TEST_F(Limits, OversizedKeysAreMissesForReaders) {
  const std::string too_long(kMaxKeyBytes + 1, 'k');
  EXPECT_FALSE(ns_.Lookup(too_long));
  EXPECT_FALSE(ns_.Has(too_long));
  EXPECT_FALSE(ns_.Erase(too_long));
  EXPECT_EQ(ns_->Flush(too_long), 0u);
  EXPECT_FALSE(ns_.Lookup(""));
  EXPECT_FALSE(ns_.Erase(""));
}

TEST_F(Limits, ObjectSize) {
  ExpectAccepted("k", 0);
  ExpectAccepted("k", 1);
  ExpectInvalid("k", kMaxObjectBytes + 1, {}, {"object", "1099511627777", "1099511627776"});
  ExpectInvalid("k", std::numeric_limits<uint64_t>::max(), {}, {"object", "18446744073709551615"});
}

TEST_F(Limits, ObjectLargerThanAChunkSaysSo) {
  OpenStore({.capacity_bytes = 64 * kMiB, .chunk_bytes = kMiB / 4, .background = false});
  ns_ = Create("chunked", kMiB);
  const uint64_t chunk = ns_->arena_chunks().front().size();
  EXPECT_EQ(chunk, kMiB / 4);
  EXPECT_EQ(ns_->arena_chunks().size(), 4u);
  ExpectAccepted("k", chunk);
  ExpectRefused("k", chunk + 1, {}, absl::StatusCode::kResourceExhausted, {"chunk"});
  ExpectRefused("k", kMaxObjectBytes, {}, absl::StatusCode::kResourceExhausted, {"chunk"});
}

TEST_F(Limits, ClassId) {
  ExpectAccepted("k", 1, {.info = {.class_id = kMaxClassId}});
  ExpectInvalid("k", 1, {.info = {.class_id = kMaxClassId + 1}}, {"class", "16", "15"});
  ExpectInvalid("k", 1, {.info = {.class_id = 255}}, {"class", "255"});
}

TEST_F(Limits, ObjectKindMustBeKnown) {
  ExpectAccepted("k", 1, {.info = {.kind = ObjectKind::kOutput}});
  ExpectInvalid("k", 1, {.info = {.kind = static_cast<ObjectKind>(kLastObjectKind + 1)}}, {"kind"});
  ExpectInvalid("k", 1, {.info = {.kind = static_cast<ObjectKind>(16)}}, {"kind"});
}

TEST_F(Limits, ParentKey) {
  ExpectAccepted("k", 1, {.info = {.parent_key = std::string(kMaxKeyBytes, 'p')}});
  ExpectInvalid("k", 1, {.info = {.parent_key = std::string(kMaxKeyBytes + 1, 'p')}},
                {"parent key", "1025", "1024"});
}

TEST_F(Limits, Ttl) {
  ExpectAccepted("k", 1, {.info = {.ttl_ms = kMaxTtlMs}});
  ExpectInvalid("k", 1, {.info = {.ttl_ms = kMaxTtlMs + 1}},
                {"TTL", "315360000001", "315360000000"});
  ExpectInvalid("k", 1, {.info = {.ttl_ms = std::numeric_limits<uint64_t>::max()}}, {"TTL"});
}

TEST_F(Limits, LongestTtlIsKept) {
  ns_.MustPut("k", "v", {.info = {.ttl_ms = kMaxTtlMs}});
  clock_.AdvanceMs(kMaxTtlMs - 1);
  EXPECT_EQ(ns_.Get("k"), "v");
  clock_.AdvanceMs(201);
  EXPECT_EQ(ns_.Get("k"), std::nullopt);
}

TEST_F(Limits, ComputeCost) {
  ExpectAccepted("k", 1, {.info = {.compute_cost_ms = 0}});
  ExpectAccepted("k", 1, {.info = {.compute_cost_ms = kMaxComputeCostMs}});
  ExpectInvalid("k", 1, {.info = {.compute_cost_ms = std::nextafter(kMaxComputeCostMs, 1e30f)}},
                {"cost"});
  ExpectInvalid("k", 1, {.info = {.compute_cost_ms = -0.001f}}, {"cost"});
  ExpectInvalid("k", 1, {.info = {.compute_cost_ms = std::numeric_limits<float>::infinity()}},
                {"cost"});
  ExpectInvalid("k", 1, {.info = {.compute_cost_ms = std::nanf("")}}, {"cost"});
}

TEST_F(Limits, PartsAreCheckedAgainstTheSize) {
  const std::vector<PartSpec> parts = {{DataType::kFloat32, {2}, 8}, {DataType::kBytes, {}, 3}};
  ExpectAccepted("k", 11, {.parts = parts});
  ExpectInvalid("k", 12, {.parts = parts}, {"parts", "11", "12"});
  ExpectInvalid("k", 10, {.parts = parts}, {"parts", "11", "10"});
  ExpectInvalid("k", 9, {.parts = {{DataType::kFloat32, {2}, 9}}}, {"part 0", "size"});
  ExpectInvalid("k", 1, {.parts = {{static_cast<DataType>(99), {1}, 1}}}, {"part 0", "dtype"});
}

TEST_F(Limits, RankAndNumberOfParts) {
  ExpectAccepted("k", 1, {.parts = {{DataType::kInt8, std::vector<uint64_t>(kMaxRank, 1), 1}}});
  ExpectInvalid("k", 1, {.parts = {{DataType::kInt8, std::vector<uint64_t>(kMaxRank + 1, 1), 1}}},
                {"rank", "9", "8"});
  ExpectAccepted("k", kMaxParts,
                 {.parts = std::vector<PartSpec>(kMaxParts, {DataType::kInt8, {}, 1})});
  ExpectInvalid("k", kMaxParts + 1,
                {.parts = std::vector<PartSpec>(kMaxParts + 1, {DataType::kInt8, {}, 1})},
                {"parts", "4097", "4096"});
}

TEST_F(Limits, EmptyObjectsAreObjects) {
  ns_.MustPut("bytes", "");
  EXPECT_EQ(ns_.Get("bytes"), "");
  EXPECT_EQ(ns_->Probe({"bytes", Fingerprint().hash()}, false), 0u);
  const std::vector<PartSpec> parts = {{DataType::kInt8, {0}, 0}, {DataType::kFloat32, {3, 0}, 0}};
  ns_.MustPut("tensors", "", {.parts = parts});
  EXPECT_EQ(ns_.Lookup("tensors")->parts(), parts);
  ExpectInvalid("k", 0, {.parts = {{DataType::kInt8, {1}, 1}}}, {"parts"});
}

// A refusal is decided before room is made: it must not cost anybody his object.
TEST_F(Limits, RefusalEvictsNothing) {
  const std::string value(64 * 1024, 'v');
  for (int i = 0; i < 12; ++i) ns_.MustPut("k" + std::to_string(i), value);
  const uint64_t objects = ns_->Stats().objects;
  ExpectRefused("huge", 2 * kMiB, {}, absl::StatusCode::kResourceExhausted, {});
  ExpectInvalid("bad", 512 * 1024, {.info = {.class_id = 16}}, {});
  EXPECT_EQ(ns_->Stats().objects, objects);
  EXPECT_EQ(ns_->Stats().evicted, 0u);
}

TEST_F(Limits, BadPutOfAVisibleKeyIsStillAnError) {
  ns_.MustPut("k", "v");
  ExpectInvalid("k", 2, {.parts = {{DataType::kInt8, {1}, 1}}}, {"parts"});
  ExpectInvalid("k", 1, {.info = {.class_id = 16}}, {"class"});
}

class Parts : public Limits {};

TEST_F(Parts, EveryDtypeAndRankRoundTrips) {
  std::vector<PartSpec> parts = {{DataType::kBytes, {}, 5}};
  uint64_t total = 5;
  for (int dtype = 1; dtype <= kLastDataType; ++dtype) {
    for (size_t rank = 0; rank <= kMaxRank; ++rank) {
      const uint64_t bytes = ElementSize(static_cast<DataType>(dtype)) << rank;
      parts.push_back({static_cast<DataType>(dtype), std::vector<uint64_t>(rank, 2), bytes});
      total += bytes;
    }
  }
  ns_.MustPut("k", std::string(total, 'v'), {.parts = parts});
  EXPECT_EQ(ns_.Lookup("k")->parts(), parts);
}

TEST_F(Parts, LayersOfAModelTakeNoRoomInTheKeyHeap) {
  const std::vector<PartSpec> layers(64, {DataType::kBFloat16, {2, 16, 4}, 256});
  const uint64_t before = ns_->Stats().metadata_bytes;
  for (int i = 0; i < 16; ++i) {
    ns_.MustPut("block:" + std::to_string(i), std::string(64 * 256, 'v'), {.parts = layers});
  }
  EXPECT_EQ(ns_.Lookup("block:7")->parts(), layers);
  EXPECT_LT(ns_->Stats().metadata_bytes - before, 16u * 256) << "an entry per part?";
}

TEST_F(Parts, LargestTableWithTheLongestKeyRoundTrips) {
  std::vector<PartSpec> parts;
  uint64_t total = 0;
  for (size_t i = 0; i < kMaxParts; ++i) {  // 4 bytes each: 16 KiB, the limit
    parts.push_back({DataType::kBytes, {}, 1 + i % 2});
    total += parts.back().size_bytes;
  }
  const std::string key(kMaxKeyBytes, 'k');
  ns_.MustPut(key, std::string(total, 'v'), {.parts = parts});
  const auto lease = ns_.Lookup(key);
  ASSERT_TRUE(lease);
  EXPECT_EQ(lease->key(), key);
  EXPECT_EQ(lease->parts(), parts);
  parts.front().size_bytes = 1000;
  ExpectInvalid("other", total + 999, {.parts = parts}, {"16384"});
}

// A writer of tiny objects with the longest keys and part tables made the daemon's memory grow by
// half of its namespace's quota and more.
TEST(Metadata, LongKeysAndTablesTakeAQuarterOfTheQuotaAtMost) {
  const MonotonicClock clock;
  Store store({.background = false}, clock);
  constexpr uint64_t kQuota = uint64_t{64} << 20;
  const auto ns =
      store.CreateNamespace({.name = "n", .quota_bytes = kQuota, .max_objects = 1'000'000});
  ASSERT_TRUE(ns.ok()) << ns.status();
  // Parts of alternating sizes cannot be told as a run: the table is as long as it may be.
  std::vector<PartSpec> parts;
  for (int i = 0; i < 3000; ++i) parts.push_back({.shape = {}, .size_bytes = uint64_t(i % 2)});
  const uint64_t empty = (*ns)->Stats().metadata_bytes;
  std::vector<std::string> keys;
  std::vector<decltype((*ns)->Reserve({}))> reserved;
  do {
    keys.push_back(std::string(1000, 'k') + std::to_string(keys.size()));
    reserved.push_back((*ns)->Reserve(
        {.id = {keys.back(), Fingerprint().hash()}, .size_bytes = 1500, .parts = parts}));
  } while (reserved.back().ok() && reserved.size() < 20'000);
  EXPECT_EQ(reserved.back().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(reserved.size(), 1000u);
  EXPECT_LE((*ns)->Stats().metadata_bytes - empty, kQuota / 4 + (uint64_t{1} << 20));
}

TEST_F(Parts, MetadataOfErasedObjectsComesBack) {
  std::vector<PartSpec> parts;
  for (size_t i = 0; i < 1000; ++i) parts.push_back({DataType::kBytes, {}, 1 + i % 2});
  const std::string value(1500, 'v');
  uint64_t after_first_round = 0;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 100; ++i) ns_.MustPut("k" + std::to_string(i), value, {.parts = parts});
    ns_->Flush("");
    ns_.MaintainAll();
    if (round == 0) after_first_round = ns_->Stats().metadata_bytes;
  }
  EXPECT_LE(ns_->Stats().metadata_bytes, after_first_round);
}

}  // namespace
}  // namespace infercache::store
