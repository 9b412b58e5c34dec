// Sessions that lend and borrow what makes no sense, or too much of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "common/limits.h"
#include "tests/file_limit.h"
#include "tests/local/lending_fixture.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

TEST_F(LendingTest, MemoryThatMakesNoSenseIsRefused) {
  Worker owner = Open();
  const auto expect_refused = [&](v1::LentMemory memory) {
    ExpectRefused(owner, LendOf(memory, {"key"}), absl::StatusCode::kInvalidArgument);
  };
  v1::LentMemory memory = Legacy();
  memory.set_handle(std::string(kLegacyHandleBytes - 1, 'h'));
  expect_refused(memory);
  memory.set_handle(std::string(kLegacyHandleBytes + 1, 'h'));
  expect_refused(memory);
  expect_refused(Legacy(0));
  expect_refused(Legacy(kMaxObjectBytes + 1));
  expect_refused(Legacy(~uint64_t{0}));
  expect_refused(ByDescriptor());
  expect_refused(v1::LentMemory());
  memory = Legacy();
  memory.clear_device();
  expect_refused(memory);
  memory.set_device(std::string(kMaxDeviceNameBytes + 1, 'd'));
  expect_refused(memory);
  memory = Legacy();
  memory.set_kind(static_cast<v1::LentMemory::Kind>(17));
  expect_refused(memory);
}

TEST_F(LendingTest, ADescriptorThatIsNoneOfMemoryIsRefusedAndClosed) {
  Worker owner = Open();
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd mine(ends[0]);
  {
    const UniqueFd sent(ends[1]);
    for (const v1::LentMemory& memory : {ByDescriptor(), Legacy()}) {
      const auto answer = owner.raw().AskWith(LendOf(memory, {"key"}), sent.get());
      EXPECT_EQ(answer.status().code(), absl::StatusCode::kInvalidArgument) << answer.status();
    }
    v1::LocalRequest request;
    request.mutable_lend()->set_allocation(MustLend(owner, {"a"}).allocation());
    AddItem(request.mutable_lend(), "b");
    EXPECT_EQ(owner.raw().AskWith(request, sent.get()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  char byte;
  EXPECT_EQ(read(mine.get(), &byte, 1), 0) << "somebody still holds the other end";
}

TEST_F(LendingTest, PlacesOutsideOfTheirAllocationAreRefused) {
  Worker owner = Open();
  v1::LocalRequest request = LendOf(Legacy(), {});
  const std::vector<std::pair<uint64_t, uint64_t>> places = {{0, kAllocation + 1},
                                                             {1, kAllocation},
                                                             {kAllocation, 1},
                                                             {~uint64_t{0}, 1},
                                                             {~uint64_t{0} - 10, 20},
                                                             {100, ~uint64_t{0} - 50},
                                                             {0, 0}};
  for (const auto& [offset, size] : places) AddItem(request.mutable_lend(), "k", offset, size);
  const auto answer = owner.raw().Ask(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  for (const v1::LentItem& item : answer->response.lent().items()) {
    EXPECT_EQ(item.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(item.loan(), 0u);
  }
  EXPECT_TRUE(NothingIsLent());
}

TEST_F(LendingTest, ItemsThatMakeNoSenseAreRefused) {
  Worker owner = Open();
  v1::LocalRequest request =
      LendOf(Legacy(), {"", std::string(kMaxKeyBytes + 1, 'k'), "ttl", "parts"});
  request.mutable_lend()->mutable_items(2)->mutable_object()->mutable_info()->set_ttl_ms(1);
  v1::PartSpec& part = *request.mutable_lend()->mutable_items(3)->mutable_object()->add_parts();
  part.set_dtype(v1::DATA_TYPE_FLOAT16);
  part.add_shape(49);
  part.set_size_bytes(98);  // of 100
  const auto answer = owner.raw().Ask(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  for (const v1::LentItem& item : answer->response.lent().items()) {
    EXPECT_EQ(item.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument))
        << item.message();
  }
  EXPECT_TRUE(NothingIsLent());
}

TEST_F(LendingTest, NumbersThatNameNothingAreNothing) {
  Worker owner = Open(), hostile = Open();
  const v1::Lent lent = MustLend(owner, {"key"});
  Worker reader = Open();
  const v1::BorrowedItem borrowed = Borrow(reader, "key");
  EXPECT_EQ(Map(hostile, lent.allocation()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Map(hostile, 0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Map(hostile, ~uint64_t{0}).status().code(), absl::StatusCode::kNotFound);
  Return(hostile, {borrowed.loan(), 0, ~uint64_t{0}}, {lent.allocation(), 0, ~uint64_t{0}});
  EXPECT_EQ(server_->stats().lending.borrowed, 1u);
  Return(reader, {borrowed.loan(), borrowed.loan(), borrowed.loan()}, {lent.allocation()});
  EXPECT_EQ(server_->stats().lending.borrowed, 0u);
}

TEST_F(LendingTest, ASessionLendsSoMuchAndNoMore) {
  Worker owner = Open();
  std::vector<std::string> keys;
  for (size_t i = 0; i < kMaxLentAllocationsPerSession; ++i) {
    MustLend(owner, {"allocation" + std::to_string(i)});
  }
  EXPECT_EQ(owner.raw().Ask(LendOf(Legacy(), {"more"})).status().code(),
            absl::StatusCode::kResourceExhausted);
  // Others may still.
  Worker other = Open();
  MustLend(other, {"more"});
}

TEST_F(LendingTest, TheTableOfLoansIsBounded) {
  Worker owner = Open();
  uint64_t lent = 0;
  v1::LocalRequest request = LendOf(Legacy(), {});
  for (int round = 0;; ++round) {
    request.mutable_lend()->clear_items();
    for (int i = 0; i < 500; ++i) {
      AddItem(request.mutable_lend(),
              std::to_string(round) + "/" + std::to_string(i) + std::string(1000, 'k'));
    }
    const auto answer = owner.raw().Ask(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
    request.mutable_lend()->clear_memory();
    request.mutable_lend()->set_allocation(answer->response.lent().allocation());
    for (const v1::LentItem& item : answer->response.lent().items()) {
      if (item.code() == 0) {
        ++lent;
        continue;
      }
      EXPECT_EQ(item.code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
      EXPECT_THAT(item.message(), HasSubstr("the session has"));
    }
    if (lent < static_cast<uint64_t>(round + 1) * 500) break;
    ASSERT_LT(round, 100);
  }
  EXPECT_GT(lent, kMaxLoanTableBytesPerSession / 5000);
  EXPECT_EQ(server_->stats().lending.loans, lent);
}

// What they have is all of it counted, also when its owner ends.
TEST_F(LendingTest, AReaderBorrowsSoManyAndNoMoreAndSoDoesAUser) {
  constexpr size_t kAtOnce = 4'096;
  std::vector<Worker> owners;
  std::vector<std::vector<std::string>> batches(kMaxBorrowedPerSession / kAtOnce);
  for (size_t b = 0; b < batches.size(); ++b) {
    if (b % 4 == 0) owners.push_back(Open());  // whose tables of loans are bounded
    for (size_t i = 0; i < kAtOnce; ++i) {
      batches[b].push_back(std::to_string(b) + "/" + std::to_string(i));
    }
    MustLend(owners.back(), batches[b]);
  }
  MustLend(owners[0], {"more"});
  const auto refused = [&](Worker& worker) { return TryBorrow(worker, {"more"}).status(); };

  std::vector<Worker> readers;
  for (size_t r = 0; r < kMaxBorrowedPerUser / kMaxBorrowedPerSession; ++r) {
    Worker& reader = readers.emplace_back(Open());
    for (const auto& keys : batches) ASSERT_TRUE(TryBorrow(reader, keys).ok());
    EXPECT_THAT(refused(reader).message(), HasSubstr("the session has 65536 borrowed tensors"));
  }
  Worker one_more = Open();
  EXPECT_THAT(refused(one_more).message(), HasSubstr("has 393216 borrowed tensors"));
  owners.pop_back();
  EXPECT_TRUE(Eventually([&] { return refused(one_more).ok(); }));
  EXPECT_TRUE(refused(readers[0]).ok());
  readers.clear();
  Worker another = Open();
  for (size_t b = 0; b + 4 < batches.size(); ++b) ASSERT_TRUE(TryBorrow(another, batches[b]).ok());
}

TEST_F(LendingTest, AReaderMapsAnAllocationSoOftenAndNoMore) {
  Worker owner = Open(), reader = Open();
  const uint64_t allocation = MustLend(owner, {"key"}).allocation();
  // As often as it likes, but a key is one tensor.
  const std::vector<std::string> often(4'000, "key");
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(TryBorrow(reader, often).ok());
  for (uint32_t i = 0; i < kMaxMapsPerAllocation; ++i) ASSERT_TRUE(Map(reader, allocation).ok());
  EXPECT_EQ(Map(reader, allocation).status().code(), absl::StatusCode::kResourceExhausted);
}

// A session ended as one that breaks the protocol because the daemon had no room for its
// descriptor.
TEST_F(LendingTest, ADescriptorThatTheDaemonHasNoRoomForIsOneThatIsRefused) {
  Worker owner = Open();
  const UniqueFd memory(memfd_create("lent", MFD_CLOEXEC));
  const v1::LocalRequest request = LendOf(ByDescriptor(), {"key"});
  // What other tests opened may still be closed meanwhile, and make room.
  absl::Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) {
    const FileLimit full;
    status = owner.raw()
                 .AskWith(LendOf(ByDescriptor(), {"early" + std::to_string(i)}), memory.get())
                 .status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_TRUE(owner.raw().AskWith(request, memory.get()).ok());
}

TEST_F(LendingTest, DescriptorsBesideOtherRequestsEndTheSession) {
  for (const bool lend : {true, false}) {
    const uint64_t before = Ended(EndReason::kProtocol);
    Worker worker = Open();
    const UniqueFd memory(memfd_create("lent", MFD_CLOEXEC));
    v1::LocalRequest request = LendOf(ByDescriptor(), {"key"});
    if (!lend) request.mutable_ping();
    request.set_id(9);
    std::vector<int> descriptors(lend ? 2 : 1, memory.get());
    (void)worker.raw().SendBytesWith(
        RawClient::EncodeFrame(request.SerializeAsString(),
                               static_cast<uint8_t>(descriptors.size())),
        descriptors);
    EXPECT_TRUE(worker.raw().AwaitClose().ok());
    EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kProtocol) == before + 1; }));
  }
}

TEST_F(LendingTest, TooManyItemsEndTheSession) {
  Worker worker = Open();
  v1::LocalRequest request;
  request.mutable_borrow()->set_device(kDevice);
  for (size_t i = 0; i <= kMaxItemsPerFrame; ++i) request.mutable_borrow()->add_keys("k");
  EXPECT_FALSE(worker.raw().Ask(request).ok());
  ExpectEnds(EndReason::kProtocol);
}

}  // namespace
}  // namespace infercache::local
