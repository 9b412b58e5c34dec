// Sessions that lend each other tensors, as the daemon sees them: keys, numbers, and who has what.
// No GPU is needed: the daemon opens nothing.

#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/limits.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {

inline constexpr char kDevice[] = "GPU-0123abcd-4567-89ef-0123-456789abcdef";
inline constexpr uint64_t kAllocation = 1'000'000;

inline v1::LentMemory Legacy(uint64_t bytes = kAllocation) {
  v1::LentMemory memory;
  memory.set_kind(v1::LentMemory::KIND_LEGACY);
  memory.set_device(kDevice);
  memory.set_handle(std::string(kLegacyHandleBytes, 'h'));
  memory.set_size_bytes(bytes);
  memory.set_pid(1);
  return memory;
}

inline v1::LentMemory ByDescriptor() {
  v1::LentMemory memory = Legacy();
  memory.set_kind(v1::LentMemory::KIND_DESCRIPTOR);
  memory.clear_handle();
  return memory;
}

inline void AddItem(v1::Lend* lend, const std::string& key, uint64_t offset = 0,
                    uint64_t size = 100) {
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
    const LendingStats stats = server_->stats().lending;
    return stats.loans + stats.bytes + stats.allocations + stats.readers + stats.borrowed +
               stats.mapped + stats.waiting ==
           0;
  }
  // The whole request is refused, and nothing is lent.
  void ExpectRefused(Worker& owner, const v1::LocalRequest& request, absl::StatusCode code) {
    const auto answer = owner.raw().Ask(request);
    EXPECT_EQ(answer.status().code(), code) << answer.status();
    EXPECT_TRUE(NothingIsLent());
  }
};

}  // namespace infercache::local
