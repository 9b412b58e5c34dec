// Tensors that sessions lend each other, as the daemon sees them: keys, numbers, and who has what.
// No GPU is needed: the daemon opens nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "common/limits.h"
#include "tests/local/child.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kDevice[] = "GPU-0123abcd-4567-89ef-0123-456789abcdef";
constexpr uint64_t kAllocation = 1'000'000;

v1::LentMemory Legacy(uint64_t bytes = kAllocation) {
  v1::LentMemory memory;
  memory.set_kind(v1::LentMemory::KIND_LEGACY);
  memory.set_device(kDevice);
  memory.set_handle(std::string(kLegacyHandleBytes, 'h'));
  memory.set_size_bytes(bytes);
  memory.set_pid(1);
  return memory;
}

v1::LentMemory ByDescriptor() {
  v1::LentMemory memory = Legacy();
  memory.set_kind(v1::LentMemory::KIND_DESCRIPTOR);
  memory.clear_handle();
  return memory;
}

void AddItem(v1::Lend* lend, const std::string& key, uint64_t offset = 0, uint64_t size = 100) {
  v1::LendItem& item = *lend->add_items();
  item.set_key(key);
  item.set_offset(offset);
  item.mutable_object()->set_size_bytes(size);
}

class LendingTest : public LocalFixture {
 protected:
  void SetUp() override {
    LocalFixture::SetUp();
    Create("default");
    Serve();
  }

  static v1::LocalRequest LendOf(const v1::LentMemory& memory,
                                 const std::vector<std::string>& keys) {
    v1::LocalRequest request;
    *request.mutable_lend()->mutable_memory() = memory;
    for (const std::string& key : keys) AddItem(request.mutable_lend(), key);
    return request;
  }
  static v1::Lent MustLend(Worker& worker, const std::vector<std::string>& keys) {
    auto answer = worker.raw().Ask(LendOf(Legacy(), keys));
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (!answer.ok()) return {};
    for (const v1::LentItem& item : answer->response.lent().items()) {
      EXPECT_EQ(item.code(), 0u) << item.message();
    }
    return answer->response.lent();
  }
  static absl::StatusOr<v1::Borrowed> TryBorrow(Worker& worker,
                                                const std::vector<std::string>& keys) {
    v1::LocalRequest request;
    request.mutable_borrow()->set_device(kDevice);
    for (const std::string& key : keys) request.mutable_borrow()->add_keys(key);
    auto answer = worker.raw().Ask(request);
    if (!answer.ok()) return answer.status();
    return answer->response.borrowed();
  }
  static v1::BorrowedItem Borrow(Worker& worker, const std::string& key) {
    const auto borrowed = TryBorrow(worker, {key});
    EXPECT_TRUE(borrowed.ok()) << borrowed.status();
    return borrowed.ok() ? borrowed->items(0) : v1::BorrowedItem();
  }
  static absl::StatusOr<RawClient::Received> Map(Worker& worker, uint64_t allocation) {
    v1::LocalRequest request;
    request.mutable_map_lent()->set_allocation(allocation);
    return worker.raw().Ask(request);
  }
  static v1::TakenBackItem TakeBack(Worker& worker, const std::string& key) {
    v1::LocalRequest request;
    request.mutable_take_back()->set_device(kDevice);
    request.mutable_take_back()->add_keys(key);
    const auto answer = worker.raw().Ask(request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? answer->response.taken_back().items(0) : v1::TakenBackItem();
  }
  static void Return(Worker& worker, const std::vector<uint64_t>& loans,
                     const std::vector<uint64_t>& allocations = {}) {
    v1::LocalRequest request;
    for (const uint64_t loan : loans) request.mutable_return_lent()->add_loans(loan);
    for (const uint64_t id : allocations) request.mutable_return_lent()->add_allocations(id);
    ASSERT_TRUE(worker.raw().Send(request).ok());
    worker.Ping();
  }
  // Nothing is lent, borrowed or mapped.
  bool NothingIsLent() const {
    const LocalStats stats = server_->stats();
    return stats.loans + stats.lent_allocations + stats.borrowed + stats.mapped_allocations == 0;
  }
  // The whole request is refused, and nothing is lent.
  void ExpectRefused(Worker& owner, const v1::LocalRequest& request, absl::StatusCode code) {
    const auto answer = owner.raw().Ask(request);
    EXPECT_EQ(answer.status().code(), code) << answer.status();
    EXPECT_TRUE(NothingIsLent());
  }
};

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
  EXPECT_EQ(server_->stats().lent_allocations, 1u);
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
  EXPECT_EQ(server_->stats().lent_allocations, 1u);
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
  EXPECT_EQ(server_->stats().mapped_allocations, 1u);
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
  EXPECT_EQ(server_->stats().mapped_allocations, 0u);
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

// --- Hostile inputs ---

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
  EXPECT_EQ(server_->stats().borrowed, 1u);
  Return(reader, {borrowed.loan(), borrowed.loan(), borrowed.loan()}, {lent.allocation()});
  EXPECT_EQ(server_->stats().borrowed, 0u);
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
  EXPECT_EQ(server_->stats().loans, lent);
}

TEST_F(LendingTest, AReaderBorrowsSoManyAndNoMore) {
  Worker owner = Open(), reader = Open();
  std::vector<std::string> keys;
  for (int i = 0; i < 4'000; ++i) keys.push_back("key" + std::to_string(i));
  MustLend(owner, keys);
  // As often as it likes, but a key is one tensor.
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(TryBorrow(reader, keys).ok());
  const uint64_t allocation = Borrow(reader, "key0").allocation();
  for (uint32_t i = 0; i < kMaxMapsPerAllocation; ++i) ASSERT_TRUE(Map(reader, allocation).ok());
  EXPECT_EQ(Map(reader, allocation).status().code(), absl::StatusCode::kResourceExhausted);
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
