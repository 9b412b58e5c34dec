// Reserve, Commit, Abort: what becomes visible, when, and who wins.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Put : public StoreFixture {
 protected:
  NamespaceVerbs ns_ = Create("puts");
  const Hash128 other_model_ = Fingerprint::Make({{"model", "other"}})->hash();
};

TEST_F(Put, IsVisibleAfterCommitOnly) {
  WriteLease lease = ns_.Reserve("k", "value");
  EXPECT_EQ(ns_.Get("k"), std::nullopt);
  EXPECT_FALSE(ns_.Has("k"));
  EXPECT_FALSE(ns_.Erase("k"));
  EXPECT_THAT(ns_.Keys(), IsEmpty());
  EXPECT_EQ(ns_->Stats().reservations, 1u);
  EXPECT_GE(ns_->Stats().reserved_bytes, 5u);
  EXPECT_EQ(ns_->Stats().visible_bytes, 0u);
  EXPECT_THAT(Events(), IsEmpty());

  EXPECT_EQ(*ns_->Commit(std::move(lease)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "value");
  EXPECT_EQ(ns_->Stats().reservations, 0u);
  EXPECT_EQ(ns_->Stats().reserved_bytes, 0u);
  EXPECT_GE(ns_->Stats().visible_bytes, 5u);
  EXPECT_EQ(ns_->Stats().objects, 1u);
  EXPECT_EQ(ns_->Stats().stored, 1u);
  ExpectConsistentGauges(ns_->Stats());
}

TEST_F(Put, AbandonedReservationGivesItsBytesBack) {
  {
    const WriteLease lease = ns_.Reserve("k", "value");
    EXPECT_GT(ns_->Stats().used_bytes, 0u);
  }
  EXPECT_FALSE(ns_.Has("k"));
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
  EXPECT_EQ(ns_->Stats().reservations, 0u);
  EXPECT_EQ(ns_->Stats().stored, 0u);
  EXPECT_THAT(Events(), IsEmpty());
}

TEST_F(Put, MovedLeaseIsOneReservation) {
  WriteLease first = ns_.Reserve("k", "value");
  WriteLease second(std::move(first));
  EXPECT_EQ(ns_->Stats().reservations, 1u);
  EXPECT_EQ(ToString(second.bytes()), "value");
  second = ns_.Reserve("other", "assigned over");  // aborts k
  EXPECT_EQ(ns_->Stats().reservations, 1u);
  EXPECT_EQ(*ns_->Commit(std::move(second)), CommitOutcome::kStored);
  EXPECT_THAT(ns_.Keys(), ElementsAre("other"));
}

TEST_F(Put, SelfMoveKeepsTheReservation) {
  WriteLease lease = ns_.Reserve("k", "value");
  WriteLease& alias = lease;
  lease = std::move(alias);
  EXPECT_EQ(ns_->Stats().reservations, 1u);
  EXPECT_EQ(*ns_->Commit(std::move(lease)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "value");
}

TEST_F(Put, LeaseMayBeDroppedAndCommittedOnAnotherThread) {
  WriteLease committed = ns_.Reserve("committed", "value");
  WriteLease dropped = ns_.Reserve("dropped", "value");
  std::thread other(
      [ns = ns_, committed = std::move(committed), dropped = std::move(dropped)]() mutable {
        EXPECT_EQ(*ns->Commit(std::move(committed)), CommitOutcome::kStored);
        const WriteLease gone = std::move(dropped);
      });
  other.join();
  EXPECT_THAT(ns_.Keys(), ElementsAre("committed"));
  EXPECT_EQ(ns_->Stats().reservations, 0u);
}

TEST_F(Put, VisibleKeyAnswersExists) {
  ns_.MustPut("k", "first");
  auto again = ns_.TryReserve("k", 6);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->has_value());
  EXPECT_EQ(ns_->Stats().exists, 1u);
  EXPECT_EQ(ns_->Stats().reservations, 0u);
  EXPECT_EQ(ns_.Get("k"), "first");
}

TEST_F(Put, ExistsDoesNotDependOnTheNewValue) {
  ns_.MustPut("k", "first");
  // Whatever would be refused for want of room is still EXISTS: nothing is to be stored.
  auto again = ns_.TryReserve("k", kMiB);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->has_value());
}

TEST_F(Put, FirstCommitOfTwoReservationsWins) {
  WriteLease early = ns_.Reserve("k", "reserved first");
  WriteLease late = ns_.Reserve("k", "reserved second");
  EXPECT_EQ(ns_->Stats().reservations, 2u);
  EXPECT_EQ(*ns_->Commit(std::move(late)), CommitOutcome::kStored);
  EXPECT_EQ(*ns_->Commit(std::move(early)), CommitOutcome::kExists);
  EXPECT_EQ(ns_.Get("k"), "reserved second");
  EXPECT_EQ(ns_->Stats().objects, 1u);
  EXPECT_EQ(ns_->Stats().reservations, 0u);
  EXPECT_EQ(ns_->Stats().stored, 1u);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().reserved_bytes, 0u);
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
  EXPECT_EQ(Events().size(), 1u);
}

TEST_F(Put, LateCommitStoresIfTheFirstIsGoneAgain) {
  WriteLease early = ns_.Reserve("k", "early");
  WriteLease late = ns_.Reserve("k", "late");
  EXPECT_EQ(*ns_->Commit(std::move(early)), CommitOutcome::kStored);
  EXPECT_TRUE(ns_.Erase("k"));
  EXPECT_EQ(*ns_->Commit(std::move(late)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "late");
}

TEST_F(Put, ReservationOpenWhileAnotherIsCommittedAndAborted) {
  WriteLease one = ns_.Reserve("k", "one");
  { const WriteLease two = ns_.Reserve("k", "two"); }
  EXPECT_EQ(*ns_->Commit(std::move(one)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "one");
}

TEST_F(Put, OverwriteReplacesTheWholeObject) {
  const PutOptions tensor = {.info = {.kind = ObjectKind::kKv, .class_id = 3},
                             .parts = {{DataType::kUInt8, {2}, 2}, {DataType::kUInt16, {1}, 2}}};
  ns_.MustPut("k", "abcd", tensor);
  ns_.MustPut("k", "longer plain bytes", {.overwrite = true});
  const auto lease = ns_.Lookup("k");
  ASSERT_TRUE(lease);
  EXPECT_EQ(Bytes(*lease), "longer plain bytes");
  EXPECT_THAT(lease->parts(), IsEmpty());
  EXPECT_EQ(lease->info(), ObjectInfo());
  EXPECT_EQ(ns_->Stats().objects, 1u);
  EXPECT_EQ(Events(EventKind::kReplaced).size(), 1u);
}

TEST_F(Put, OverwriteKeepsTheOldObjectUntilCommit) {
  ns_.MustPut("k", "old");
  WriteLease replacement = ns_.Reserve("k", "new", {.overwrite = true});
  EXPECT_EQ(ns_.Get("k"), "old");
  EXPECT_EQ(*ns_->Commit(std::move(replacement)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "new");
}

TEST_F(Put, AbortedOverwriteLeavesTheOldObject) {
  ns_.MustPut("k", "old");
  { const WriteLease abandoned = ns_.Reserve("k", "new", {.overwrite = true}); }
  EXPECT_EQ(ns_.Get("k"), "old");
  EXPECT_THAT(Events(EventKind::kReplaced), IsEmpty());
}

TEST_F(Put, OverwriteOfNothingStores) {
  ns_.MustPut("k", "new", {.overwrite = true});
  EXPECT_EQ(ns_.Get("k"), "new");
  EXPECT_THAT(Events(EventKind::kReplaced), IsEmpty());
}

TEST_F(Put, ReadersOfTheOverwrittenObjectKeepIt) {
  ns_.MustPut("k", "old value");
  std::optional<ReadLease> reader = ns_.Lookup("k");
  for (int version = 0; version < 5; ++version) {
    ns_.MustPut("k", "new value " + std::to_string(version), {.overwrite = true});
    ns_.MaintainAll();
  }
  EXPECT_EQ(Bytes(*reader), "old value");
  EXPECT_EQ(reader->key(), "k");
  EXPECT_EQ(ns_.Get("k"), "new value 4");
  EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  EXPECT_EQ(ns_->Stats().objects, 1u);
  reader.reset();
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
  ExpectConsistentGauges(ns_->Stats());
}

TEST_F(Put, LastOverwriteWins) {
  WriteLease one = ns_.Reserve("k", "one", {.overwrite = true});
  WriteLease two = ns_.Reserve("k", "two", {.overwrite = true});
  EXPECT_EQ(*ns_->Commit(std::move(two)), CommitOutcome::kStored);
  EXPECT_EQ(*ns_->Commit(std::move(one)), CommitOutcome::kStored);
  EXPECT_EQ(ns_.Get("k"), "one");
  EXPECT_EQ(ns_->Stats().objects, 1u);
}

TEST_F(Put, PlainReservationLosesToAnOverwriteCommittedFirst) {
  WriteLease plain = ns_.Reserve("k", "plain");
  ns_.MustPut("k", "overwrite", {.overwrite = true});
  EXPECT_EQ(*ns_->Commit(std::move(plain)), CommitOutcome::kExists);
  EXPECT_EQ(ns_.Get("k"), "overwrite");
}

TEST_F(Put, FingerprintsKeepModelsApart) {
  ns_.MustPut("k", "of no model");
  ns_.MustPut("k", "of the other model", {.fingerprint = other_model_});
  EXPECT_EQ(ns_->Stats().objects, 2u);
  EXPECT_EQ(ns_.Get("k"), "of no model");
  EXPECT_EQ(ns_.Get("k", other_model_), "of the other model");
  EXPECT_TRUE(ns_.Erase("k", other_model_));
  EXPECT_EQ(ns_.Get("k", other_model_), std::nullopt);
  EXPECT_EQ(ns_.Get("k"), "of no model");
}

TEST_F(Put, HalvesOfAFingerprintAreBothCompared) {
  const Hash128 base = other_model_;
  ns_.MustPut("k", "value", {.fingerprint = base});
  EXPECT_FALSE(ns_.Has("k", {base.lo, base.hi ^ 1}));
  EXPECT_FALSE(ns_.Has("k", {base.lo ^ 1, base.hi}));
  EXPECT_TRUE(ns_.Has("k", base));
}

TEST_F(Put, KeysAreBytes) {
  const std::string with_nul("a\0b", 3);
  ns_.MustPut(with_nul, "1");
  ns_.MustPut("a", "2");
  ns_.MustPut(std::string("\xff\xfe\0", 3), "3");
  EXPECT_EQ(ns_.Get(with_nul), "1");
  EXPECT_EQ(ns_.Get("a"), "2");
  EXPECT_EQ(ns_.Get(std::string("a\0", 2)), std::nullopt);
  EXPECT_EQ(ns_.Get(std::string("\xff\xfe\0", 3)), "3");
}

// Where a key lies depends on its length (inline or in the key heap): walk over the border.
TEST_F(Put, KeysOfEveryLength) {
  for (size_t length = 1; length <= 1024; ++length) {
    const std::string key(length, 'k');
    ns_.MustPut(key, "v" + std::to_string(length));
    ASSERT_EQ(ns_.Get(key), "v" + std::to_string(length)) << length;
  }
  EXPECT_EQ(ns_->Stats().objects, 1024u);
}

TEST_F(Put, ManyLongKeysComeAndGo) {
  // Far more key bytes pass through than the heap for keys can hold at once.
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 100; ++i) {
      std::string key = std::to_string(round) + ":" + std::to_string(i) + ":";
      key.resize(1024, 'x');
      ASSERT_TRUE(ns_.Put(key, "value of " + std::to_string(i)).ok());
      ASSERT_EQ(ns_.Get(key), "value of " + std::to_string(i));
    }
    ns_->Flush("");
  }
}

TEST_F(Put, ValuesOfOddSizesDoNotOverlap) {
  const auto value = [](int i) {
    return std::string(static_cast<size_t>(i) % 97 + 1, static_cast<char>('a' + i % 26));
  };
  for (int i = 0; i < 500; ++i) ns_.MustPut("k" + std::to_string(i), value(i));
  for (int i = 0; i < 500; ++i) EXPECT_EQ(ns_.Get("k" + std::to_string(i)), value(i));
}

}  // namespace
}  // namespace infercache::store
