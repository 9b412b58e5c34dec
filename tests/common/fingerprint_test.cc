#include "common/fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "common/limits.h"

namespace infercache {
namespace {

using ::testing::HasSubstr;

Fingerprint MustMake(FingerprintEntries entries) {
  auto made = Fingerprint::Make(std::move(entries));
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

FingerprintEntries Numbered(size_t count) {
  FingerprintEntries entries;
  for (size_t i = 0; i < count; ++i) entries.emplace_back("key" + std::to_string(i), "value");
  return entries;
}

void ExpectRefused(FingerprintEntries entries, const std::string& message_part) {
  const auto made = Fingerprint::Make(std::move(entries));
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(made.status().message()), HasSubstr(message_part));
}

TEST(Fingerprint, OrderDoesNotMatter) {
  FingerprintEntries entries = {{"model", "a"}, {"dtype", "bf16"}, {"block", "16"}};
  std::sort(entries.begin(), entries.end());
  const Fingerprint expected = MustMake(entries);
  do {
    const Fingerprint permuted = MustMake(entries);
    EXPECT_EQ(permuted.hash(), expected.hash());
    EXPECT_EQ(permuted.entries(), expected.entries());
  } while (std::next_permutation(entries.begin(), entries.end()));
}

TEST(Fingerprint, EntriesAreSortedByKey) {
  const Fingerprint fingerprint = MustMake({{"z", "1"}, {"a", "2"}, {"m", "3"}});
  const FingerprintEntries sorted = {{"a", "2"}, {"m", "3"}, {"z", "1"}};
  EXPECT_EQ(fingerprint.entries(), sorted);
}

TEST(Fingerprint, NoEntriesIsTheDefault) {
  EXPECT_EQ(MustMake({}).hash(), Fingerprint().hash());
  EXPECT_TRUE(Fingerprint().entries().empty());
  EXPECT_NE(MustMake({{"a", ""}}).hash(), Fingerprint().hash());
}

TEST(Fingerprint, EveryPieceOfTextCounts) {
  const Hash128 base = MustMake({{"model", "a"}, {"rank", "0"}}).hash();
  EXPECT_NE(base, MustMake({{"model", "b"}, {"rank", "0"}}).hash());
  EXPECT_NE(base, MustMake({{"Model", "a"}, {"rank", "0"}}).hash());
  EXPECT_NE(base, MustMake({{"model", "a"}}).hash());
  EXPECT_NE(base, MustMake({{"model", "a"}, {"rank", "00"}}).hash());
  EXPECT_NE(base, MustMake({{"model", "0"}, {"rank", "a"}}).hash());
}

// Lists that read alike when they are naively written one after the other.
TEST(Fingerprint, PairBoundariesCount) {
  EXPECT_NE(MustMake({{"ab", "c"}}).hash(), MustMake({{"a", "bc"}}).hash());
  EXPECT_NE(MustMake({{"a", "1;1:b=1:2"}}).hash(), MustMake({{"a", "1"}, {"b", "2"}}).hash());
  EXPECT_NE(MustMake({{"a=b", "c"}}).hash(), MustMake({{"a", "b=c"}}).hash());
  EXPECT_NE(MustMake({{"a", std::string("x\0", 2)}}).hash(), MustMake({{"a", "x"}}).hash());
}

TEST(Fingerprint, RefusesDuplicateKeysByName) {
  ExpectRefused({{"model", "a"}, {"dtype", "b"}, {"model", "c"}}, "'model'");
  ExpectRefused({{"model", "a"}, {"model", "a"}}, "twice");
}

TEST(Fingerprint, RefusesAnEmptyKey) {
  ExpectRefused({{"", "a"}}, "empty key");
  ExpectRefused({{"model", "a"}, {"", ""}}, "empty key");
}

TEST(Fingerprint, LimitsAreInclusive) {
  EXPECT_TRUE(Fingerprint::Make(Numbered(kMaxFingerprintEntries)).ok());
  ExpectRefused(Numbered(kMaxFingerprintEntries + 1), "65 entries; the limit is 64");

  EXPECT_TRUE(Fingerprint::Make({{std::string(kMaxFingerprintKeyBytes, 'k'), ""}}).ok());
  ExpectRefused({{std::string(kMaxFingerprintKeyBytes + 1, 'k'), ""}},
                "129 bytes; the limit is 128");

  EXPECT_TRUE(Fingerprint::Make({{"k", std::string(kMaxFingerprintValueBytes, 'v')}}).ok());
  ExpectRefused({{"k", std::string(kMaxFingerprintValueBytes + 1, 'v')}}, "'k' has 1025 bytes");
}

TEST(FingerprintSatisfies, WhatIsNotDemandedIsFree) {
  const Fingerprint stated = MustMake({{"model", "a"}, {"rank", "0"}});
  EXPECT_TRUE(stated.Satisfies({}).ok());
  EXPECT_TRUE(stated.Satisfies({{"rank", "0"}}).ok());
  EXPECT_TRUE(stated.Satisfies({{"rank", "0"}, {"model", "a"}}).ok());
}

TEST(FingerprintSatisfies, NamesTheMissingEntry) {
  const absl::Status status = MustMake({{"model", "a"}}).Satisfies({{"model", "a"}, {"rank", "0"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank=0"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not state"));
}

TEST(FingerprintSatisfies, NamesBothSidesOfADifference) {
  const absl::Status status = MustMake({{"model", "mine"}}).Satisfies({{"model", "theirs"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model=theirs"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("model=mine"));
}

TEST(FingerprintSatisfies, StatingNothingContradictsAnyDemand) {
  EXPECT_EQ(Fingerprint().Satisfies({{"model", "a"}}).code(),
            absl::StatusCode::kFailedPrecondition);
  // The key just before and just after the demanded one.
  EXPECT_FALSE(MustMake({{"modek", "a"}, {"modem", "a"}}).Satisfies({{"model", "a"}}).ok());
}

}  // namespace
}  // namespace infercache
