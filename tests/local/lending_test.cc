// Tensors that sessions lend each other: keys, numbers, and who has what.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/local/lending_fixture.h"

namespace infercache::local {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(LendingTest, WhatOneLendsOthersFindAndMap) {
  Worker owner = Open(), reader = Open();
  EXPECT_TRUE(owner.welcome().lending());
  v1::LocalRequest request = LendOf(Legacy(), {});
  AddItem(request.mutable_lend(), "key", 500, 60);
  v1::LendItem& item = *request.mutable_lend()->mutable_items(0);
  item.mutable_object()->mutable_info()->set_compute_cost_ms(3);
  v1::PartSpec& part = *item.mutable_object()->add_parts();
  part.set_dtype(v1::DATA_TYPE_FLOAT16);
  part.add_shape(30);
  part.set_size_bytes(60);
  const auto lent = owner.raw().Ask(request);
  ASSERT_TRUE(lent.ok()) << lent.status();
  ASSERT_EQ(lent->response.lent().items(0).code(), 0u);
  const v1::BorrowedItem borrowed = Borrow(reader, "key");
  EXPECT_EQ(borrowed.loan(), lent->response.lent().items(0).loan());
  EXPECT_EQ(borrowed.allocation(), lent->response.lent().allocation());
  EXPECT_EQ(borrowed.offset(), 500u);
  EXPECT_EQ(borrowed.object().SerializeAsString(), item.object().SerializeAsString());
  const auto memory = Map(reader, borrowed.allocation());
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->response.lent_memory().handle(), Legacy().handle());
  EXPECT_EQ(memory->response.lent_memory().size_bytes(), kAllocation);
  EXPECT_EQ(memory->response.lent_memory().allocation(), borrowed.allocation());
  EXPECT_TRUE(memory->descriptors.empty());
}

TEST_F(LendingTest, ADescriptorTravelsToWhoeverMapsIt) {
  Worker owner = Open(), reader = Open();
  const UniqueFd memory(memfd_create("lent", MFD_CLOEXEC));
  ASSERT_EQ(write(memory.get(), "bytes", 5), 5);
  const auto lent = owner.raw().AskWith(LendOf(ByDescriptor(), {"key"}), memory.get());
  ASSERT_TRUE(lent.ok()) << lent.status();
  const auto mapped = Map(reader, Borrow(reader, "key").allocation());
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  ASSERT_EQ(mapped->descriptors.size(), 1u);
  char bytes[5];
  ASSERT_EQ(pread(mapped->descriptors[0].get(), bytes, 5, 0), 5);
  EXPECT_EQ(std::string(bytes, 5), "bytes");
}

TEST_F(LendingTest, ADescriptorIsClosedWithWhatItWasFor) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd read_end(ends[0]);
  Worker owner = Open();
  {
    const UniqueFd write_end(ends[1]);
    ASSERT_TRUE(owner.raw().AskWith(LendOf(ByDescriptor(), {"key"}), write_end.get()).ok());
  }
  EXPECT_FALSE(TakeBack(owner, "key").lent());
  char byte;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0) << "somebody still holds the other end";
}

TEST_F(LendingTest, KeysOfOtherDevicesFingerprintsAndNamespacesAreOthers) {
  Create("other");
  Worker owner = Open();
  MustLend(owner, {"key"});
  Worker reader = Open();
  v1::LocalRequest request;
  request.mutable_borrow()->set_device("GPU-another");
  request.mutable_borrow()->add_keys("key");
  auto answer = reader.raw().Ask(request);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->response.borrowed().items(0).loan(), 0u);
  Worker other_model = Open({.namespace_name = "default", .fingerprint = {{"model", "m"}}});
  EXPECT_EQ(Borrow(other_model, "key").loan(), 0u);
  Worker other_namespace = Open({.namespace_name = "other"});
  EXPECT_EQ(Borrow(other_namespace, "key").loan(), 0u);
  // Nor by its number.
  const uint64_t allocation = Borrow(reader, "key").allocation();
  EXPECT_EQ(Map(other_namespace, allocation).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Map(reader, allocation).ok());
}

TEST_F(LendingTest, AKeyIsLentByOne) {
  Worker owner = Open(), other = Open();
  MustLend(owner, {"key"});
  for (Worker* again : {&owner, &other}) {
    const auto answer = again->raw().Ask(LendOf(Legacy(), {"key", "new"}));
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(answer->response.lent().items(0).code(),
              static_cast<uint32_t>(absl::StatusCode::kAlreadyExists));
    EXPECT_EQ(answer->response.lent().items(1).code(), 0u);
    EXPECT_FALSE(TakeBack(*again, "new").lent());
  }
  // Nor taken back by another.
  EXPECT_FALSE(TakeBack(other, "key").lent());
  EXPECT_NE(Borrow(other, "key").loan(), 0u);
}

TEST_F(LendingTest, MoreOfAnAllocationIsLentByItsNumber) {
  Worker owner = Open(), other = Open();
  const uint64_t allocation = MustLend(owner, {"a"}).allocation();
  v1::LocalRequest request;
  request.mutable_lend()->set_allocation(allocation);
  AddItem(request.mutable_lend(), "b", kAllocation - 100);
  const auto answer = owner.raw().Ask(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->response.lent().allocation(), allocation);
  EXPECT_EQ(server_->stats().lending.allocations, 1u);
  EXPECT_EQ(other.raw().Ask(request).status().code(), absl::StatusCode::kNotFound);
  TakeBack(owner, "a");
  EXPECT_NE(Borrow(other, "b").loan(), 0u);
  TakeBack(owner, "b");
  EXPECT_EQ(owner.raw().Ask(request).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(LendingTest, AnAllocationOfWhichNothingIsLentIsForgotten) {
  Worker owner = Open(), other = Open();
  MustLend(other, {"key"});
  const auto answer = owner.raw().Ask(LendOf(Legacy(), {"key"}));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->response.lent().allocation(), 0u);
  EXPECT_EQ(server_->stats().lending.allocations, 1u);
}

TEST_F(LendingTest, TakingBackWaitsForWhoHasIt) {
  Worker owner = Open(), reader = Open();
  MustLend(owner, {"key", "other"});
  const v1::BorrowedItem borrowed = Borrow(reader, "key");
  ASSERT_TRUE(Map(reader, borrowed.allocation()).ok());
  EXPECT_EQ(Borrow(reader, "key").loan(), borrowed.loan()) << "as often as one likes";
  EXPECT_FALSE(TakeBack(owner, "other").lent()) << "nobody has it";
  const v1::TakenBackItem waits = TakeBack(owner, "key");
  EXPECT_TRUE(waits.lent());
  EXPECT_EQ(waits.loan(), borrowed.loan());
  EXPECT_EQ(Borrow(reader, "key").loan(), 0u);
  EXPECT_TRUE(TakeBack(owner, "key").lent()) << "as often as one asks";
  // The reader is told, and has it and its mapping still.
  const auto told = reader.raw().AwaitLentEvents();
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_THAT(told->gone(), ElementsAre(borrowed.allocation()));
  Return(reader, {borrowed.loan()});
  owner.Ping();
  EXPECT_EQ(owner.raw().lent_events().free_size(), 0) << "it was borrowed twice";
  Return(reader, {borrowed.loan()});
  owner.Ping();
  EXPECT_EQ(owner.raw().lent_events().free_size(), 0) << "it is mapped";
  Return(reader, {}, {borrowed.allocation()});
  const auto free = owner.raw().AwaitLentEvents();
  ASSERT_TRUE(free.ok()) << free.status();
  EXPECT_THAT(free->free(), ElementsAre(borrowed.loan()));
  EXPECT_TRUE(NothingIsLent());
}

TEST_F(LendingTest, WhileOthersOfItsAllocationAreLentAMappingIsNoHindrance) {
  Worker owner = Open(), reader = Open();
  MustLend(owner, {"a", "b"});
  const v1::BorrowedItem a = Borrow(reader, "a");
  ASSERT_TRUE(Map(reader, a.allocation()).ok());
  EXPECT_TRUE(TakeBack(owner, "a").lent());
  Return(reader, {a.loan()});
  const auto free = owner.raw().AwaitLentEvents();
  ASSERT_TRUE(free.ok());
  EXPECT_THAT(free->free(), ElementsAre(a.loan()));
  reader.Ping();
  EXPECT_EQ(reader.raw().lent_events().gone_size(), 0);
  EXPECT_TRUE(TakeBack(owner, "b").lent()) << "the last one: it waits for the mapping";
}

TEST_F(LendingTest, NobodyMapsWhatIsBeingTakenBack) {
  Worker owner = Open(), reader = Open();
  MustLend(owner, {"key"});
  const v1::BorrowedItem borrowed = Borrow(reader, "key");
  EXPECT_TRUE(TakeBack(owner, "key").lent());
  EXPECT_EQ(Map(reader, borrowed.allocation()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(LendingTest, AKeyThatIsBeingTakenBackIsAnothersToLend) {
  Worker owner = Open(), reader = Open(), other = Open();
  MustLend(owner, {"key"});
  const v1::BorrowedItem old = Borrow(reader, "key");
  EXPECT_TRUE(TakeBack(owner, "key").lent());
  const auto again = owner.raw().Ask(LendOf(Legacy(), {"key"}));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->response.lent().items(0).code(),
            static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
  const v1::Lent lent = MustLend(other, {"key"});
  EXPECT_EQ(Borrow(reader, "key").loan(), lent.items(0).loan());
  Return(reader, {old.loan()});
  EXPECT_TRUE(owner.raw().AwaitLentEvents().ok());
}

TEST_F(LendingTest, TheEndOfItsOwnerEndsALoanAtOnce) {
  Worker reader = Open();
  v1::BorrowedItem borrowed;
  {
    Worker owner = Open();
    MustLend(owner, {"a", "b"});
    borrowed = Borrow(reader, "a");
    ASSERT_TRUE(Map(reader, borrowed.allocation()).ok());
    EXPECT_TRUE(TakeBack(owner, "a").lent());
  }
  const auto told = reader.raw().AwaitLentEvents();
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_THAT(told->gone(), ElementsAre(borrowed.allocation()));
  EXPECT_TRUE(Eventually([&] { return NothingIsLent(); }));
  EXPECT_EQ(Borrow(reader, "b").loan(), 0u);
  // It comes too late, and nobody minds.
  Return(reader, {borrowed.loan()}, {borrowed.allocation()});
}

// This process is its readers' too, and lives.
TEST_F(LendingTest, AReaderThatIsOverHasWhatItHadUntilItsProcessIsGone) {
  Worker owner = Open();
  MustLend(owner, {"key"});
  {
    Worker reader = Open();
    ASSERT_TRUE(Map(reader, Borrow(reader, "key").allocation()).ok());
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == 1; }));
  EXPECT_TRUE(TakeBack(owner, "key").lent());
  EXPECT_EQ(server_->stats().lending.mapped, 1u);
}

TEST_F(LendingTest, AReaderThatReturnedAllBeforeItLeftIsNotWaitedFor) {
  Worker owner = Open();
  MustLend(owner, {"key"});
  for (int round = 0; round < 100; ++round) {
    Worker reader = Open();
    const v1::BorrowedItem borrowed = Borrow(reader, "key");
    ASSERT_TRUE(Map(reader, borrowed.allocation()).ok());
    v1::LocalRequest request;
    // Answers that nobody reads: the daemon may find the connection broken before it reads on.
    request.set_id(1000);
    request.mutable_ping();
    ASSERT_TRUE(reader.raw().Send(request).ok());
    request.Clear();
    request.mutable_return_lent()->add_loans(borrowed.loan());
    request.mutable_return_lent()->add_allocations(borrowed.allocation());
    ASSERT_TRUE(reader.raw().Send(request).ok());
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == 1; }));
  EXPECT_EQ(server_->stats().lending.mapped, 0u);
  EXPECT_FALSE(TakeBack(owner, "key").lent());
}

TEST_F(LendingTest, ItTakesTheRightToWriteInPlace) {
  store::NamespaceSpec spec{.name = "sent", .quota_bytes = 1 << 20};
  spec.writable_by_clients = false;
  Create(spec);
  for (const Opening& opening : {Opening{.namespace_name = "default", .read_only = true},
                                 Opening{.namespace_name = "sent"}}) {
    Worker worker = Open(opening);
    EXPECT_EQ(worker.raw().Ask(LendOf(Legacy(), {"key"})).status().code(),
              absl::StatusCode::kPermissionDenied);
    const auto borrowed = TryBorrow(worker, {"key"});
    EXPECT_EQ(borrowed.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(borrowed.status().message()), HasSubstr("local_writers"));
    EXPECT_EQ(Map(worker, 1).status().code(), absl::StatusCode::kPermissionDenied);
  }
}

TEST_F(LendingTest, NothingMoreIsLentWhenTheDaemonDrains) {
  Worker owner = Open(), reader = Open();
  MustLend(owner, {"key"});
  server_->BeginDrain();
  EXPECT_EQ(owner.raw().Ask(LendOf(Legacy(), {"more"})).status().code(),
            absl::StatusCode::kUnavailable);
  const v1::BorrowedItem borrowed = Borrow(reader, "key");
  EXPECT_NE(borrowed.loan(), 0u) << "what is lent stays so";
  Return(reader, {borrowed.loan()});
  EXPECT_FALSE(TakeBack(owner, "key").lent());
}

}  // namespace
}  // namespace infercache::local
