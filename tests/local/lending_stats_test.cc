// What of lending is counted.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/local/lending_fixture.h"

namespace infercache::local {
namespace {

class LendingStatsTest : public LendingTest {
 protected:
  LendingStats Lending() const { return server_->stats().lending; }
  uint64_t Refused(LendingRefusal why) const {
    return server_->stats().lending_refused[static_cast<size_t>(why)];
  }
  uint64_t RefusedInAll() const {
    uint64_t sum = 0;
    for (const uint64_t count : server_->stats().lending_refused) sum += count;
    return sum;
  }
};

TEST_F(LendingStatsTest, SayWhatIsLentAndWhoHasIt) {
  Worker owner = Open(), reader = Open(), idle = Open();
  EXPECT_EQ(Lending(), LendingStats());
  MustLend(owner, {"a", "b"});  // of 100 bytes each
  EXPECT_EQ(Lending(), (LendingStats{.loans = 2, .bytes = 200, .allocations = 1, .lent = 2}));
  const uint64_t allocation = Borrow(reader, "a").allocation();
  Borrow(reader, "a");
  ASSERT_TRUE(Map(reader, allocation).ok());
  EXPECT_EQ(Borrow(idle, "none").loan(), 0u);
  EXPECT_EQ(Lending(), (LendingStats{.loans = 2,
                                     .bytes = 200,
                                     .allocations = 1,
                                     .readers = 1,
                                     .borrowed = 2,
                                     .mapped = 1,
                                     .lent = 2,
                                     .borrows_found = 2,
                                     .borrows_not_found = 1}));
  Return(reader, {Borrow(owner, "b").loan()});
  EXPECT_EQ(Lending().readers, 2u) << "it had nothing of that, and the owner has";
}

TEST_F(LendingStatsTest, TellHowLoansEnded) {
  Worker reader = Open();
  {
    Worker owner = Open();
    MustLend(owner, {"at once", "waits", "owner goes", "owner goes while it waits"});
    EXPECT_FALSE(TakeBack(owner, "at once").lent());
    EXPECT_EQ(Lending().taken_back_at_once, 1u);
    EXPECT_FALSE(TakeBack(owner, "at once").lent());
    EXPECT_EQ(Lending().taken_back_at_once, 1u) << "it is back already";
    const uint64_t waits = Borrow(reader, "waits").loan();
    Borrow(reader, "owner goes while it waits");
    EXPECT_TRUE(TakeBack(owner, "waits").lent());
    EXPECT_TRUE(TakeBack(owner, "owner goes while it waits").lent());
    EXPECT_TRUE(TakeBack(owner, "waits").lent());
    EXPECT_EQ(Lending().waiting, 2u);
    EXPECT_EQ(Lending().bytes, 300u) << "what is waited for is not free";
    EXPECT_TRUE(Eventually([&] { return Lending().longest_wait_ms > 0; }));
    Return(reader, {waits});
    EXPECT_EQ(Lending().taken_back_after_wait, 1u);
    EXPECT_EQ(Lending().waiting, 1u);
  }
  EXPECT_TRUE(Eventually([&] { return NothingIsLent(); }));
  EXPECT_EQ(Lending(), (LendingStats{.lent = 4,
                                     .borrows_found = 2,
                                     .taken_back_at_once = 1,
                                     .taken_back_after_wait = 1,
                                     .owner_gone = 2}));
}

// One that is mapped waits for the mapping, and no longer.
TEST_F(LendingStatsTest, AMappingIsWaitedForToo) {
  Worker owner = Open(), reader = Open();
  MustLend(owner, {"key"});
  const v1::BorrowedItem borrowed = Borrow(reader, "key");
  ASSERT_TRUE(Map(reader, borrowed.allocation()).ok());
  Return(reader, {borrowed.loan()});
  EXPECT_EQ(Lending().readers, 1u);
  EXPECT_TRUE(TakeBack(owner, "key").lent());
  EXPECT_EQ(Lending().waiting, 1u);
  Return(reader, {}, {borrowed.allocation()});
  EXPECT_EQ(Lending(), (LendingStats{.lent = 1, .borrows_found = 1, .taken_back_after_wait = 1}));
}

// What no session had, it has not failed to open either.
TEST_F(LendingStatsTest, TellWhatReadersCouldNotOpen) {
  Worker owner = Open(), reader = Open();
  MustLend(owner, {"key"});
  const uint64_t loan = Borrow(reader, "key").loan();
  Borrow(reader, "key");
  v1::LocalRequest request;
  for (const uint64_t one : {loan, loan + 1, loan, loan}) {
    request.mutable_return_lent()->add_loans(one);
  }
  for (const uint64_t one : {loan, loan + 1}) request.mutable_return_lent()->add_not_opened(one);
  ASSERT_TRUE(reader.raw().Send(request).ok());
  reader.Ping();
  EXPECT_EQ(Lending().borrowed, 0u);
  EXPECT_EQ(Lending().borrows_found, 2u);
  EXPECT_EQ(Lending().borrows_not_opened, 1u);
}

TEST_F(LendingStatsTest, TellWhyWhatWasRefused) {
  Worker owner = Open(), reader = Open(), watcher = Open({.read_only = true});
  MustLend(owner, {"key"});
  EXPECT_EQ(RefusedInAll(), 0u);
  EXPECT_FALSE(watcher.raw().Ask(LendOf(Legacy(), {"key"})).ok());
  EXPECT_FALSE(TryBorrow(watcher, {"key"}).ok());
  EXPECT_FALSE(Map(watcher, 1).ok());
  EXPECT_EQ(Refused(LendingRefusal::kAccess), 3u);
  EXPECT_TRUE(reader.raw().Ask(LendOf(Legacy(), {"key", "key", "other"})).ok());
  EXPECT_EQ(Refused(LendingRefusal::kExists), 2u) << "each key of a request by itself";
  EXPECT_FALSE(owner.raw().Ask(LendOf(Legacy(0), {"more"})).ok());
  EXPECT_EQ(Refused(LendingRefusal::kInvalid), 1u);
  const uint64_t allocation = Borrow(reader, "key").allocation();
  for (uint32_t i = 0; i <= kMaxMapsPerAllocation; ++i) (void)Map(reader, allocation);
  EXPECT_EQ(Refused(LendingRefusal::kLimit), 1u);
  EXPECT_TRUE(TakeBack(owner, "key").lent());
  EXPECT_FALSE(Map(reader, allocation).ok());
  EXPECT_TRUE(owner.raw().Ask(LendOf(Legacy(), {"key"})).ok());
  EXPECT_EQ(Refused(LendingRefusal::kGone), 2u);
  server_->BeginDrain();
  EXPECT_FALSE(owner.raw().Ask(LendOf(Legacy(), {"more"})).ok());
  EXPECT_EQ(Refused(LendingRefusal::kStopping), 1u);
  EXPECT_EQ(RefusedInAll(), 10u);
  EXPECT_EQ(Lending().lent, 2u) << "what was refused is not lent";
}

}  // namespace
}  // namespace infercache::local
