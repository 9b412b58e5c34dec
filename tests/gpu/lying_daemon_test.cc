// A reader whose daemon lies about what is lent: it may name any place and any memory, and the
// reader stays within what it has mapped.

#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "tests/gpu/scripted_daemon.h"

namespace infercache::gpu {
namespace {

class LyingDaemon : public ScriptedDaemon {
 protected:
  // A reader of a daemon that says so. As it is by default.
  DeviceGetResult Borrow(const std::function<void(v1::BorrowedItem&)>& lie_of_the_tensor,
                         const std::function<void(v1::LentMemory&)>& lie_of_its_memory) {
    Start([=, this](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
      if (request.has_borrow()) lie_of_the_tensor(SayBorrowed(1, kAllocation, answer));
      if (request.has_map_lent()) lie_of_its_memory(SayMemory(kAllocation, answer));
    });
    return client_->Borrow("key");
  }
  DeviceGetResult Borrow(const std::function<void(v1::BorrowedItem&)>& lie) {
    return Borrow(lie, [](v1::LentMemory&) {});
  }
};

TEST_F(LyingDaemon, TellsTheTruthAndIsBelieved) {
  const DeviceGetResult got =
      Borrow([](v1::BorrowedItem& item) { item.set_offset(DeviceBuffer::kBytes - kSize); });
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(lent_->ReadFrom(got.object->address() + kSize - DeviceBuffer::kBytes, 4), "text");
}

TEST_F(LyingDaemon, PutsATensorOutsideOfItsMemory) {
  const std::pair<uint64_t, uint64_t> places[] = {
      {DeviceBuffer::kBytes - kSize + 1, kSize},
      {DeviceBuffer::kBytes, kSize},
      {DeviceBuffer::kBytes + 1, kSize},
      {uint64_t{1} << 40, kSize},
      {~uint64_t{0}, kSize},
      {~uint64_t{0} - kSize + 1, kSize},
      {0, DeviceBuffer::kBytes + 1},
      {1, DeviceBuffer::kBytes},
  };
  for (const auto& [offset, size] : places) {
    SCOPED_TRACE(offset);
    const DeviceGetResult got = Borrow([offset = offset, size = size](v1::BorrowedItem& item) {
      item.set_offset(offset);
      item.mutable_object()->set_size_bytes(size);
    });
    EXPECT_FALSE(got.hit()) << "at " << got.object->address();
    EXPECT_FALSE(got.status.ok());
    Stop();
  }
}

TEST_F(LyingDaemon, SaysThatTheMemoryIsLargerThanItIs) {
  const DeviceGetResult got =
      Borrow([](v1::BorrowedItem& item) { item.set_offset(DeviceBuffer::kBytes); },
             [](v1::LentMemory& memory) { memory.set_size_bytes(2 * DeviceBuffer::kBytes); });
  EXPECT_FALSE(got.hit());
  EXPECT_FALSE(got.status.ok());
}

TEST_F(LyingDaemon, NamesAnotherMemoryThanWasAskedFor) {
  const DeviceGetResult got =
      Borrow([](v1::BorrowedItem&) {},
             [](v1::LentMemory& memory) { memory.set_allocation(kAllocation + 1); });
  EXPECT_FALSE(got.hit());
  EXPECT_FALSE(got.status.ok());
}

// Room that it granted was looked for in a mapping that was not there.
TEST_F(LyingDaemon, GrantsRoomInATierThatMayNotBeWrittenInPlace) {
  Start([this](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
    if (request.has_hello() && !request.hello().device().empty()) {
      answer.response.mutable_welcome()->set_device(device_.uuid);
      answer.response.mutable_welcome()->set_put_access(v1::Welcome::PUT_ACCESS_SEND);
    }
    if (request.has_map_chunks()) answer.descriptors = {exported_.descriptor.get()};
  });
  const ReserveItem item = {.key = "key", .size_bytes = kSize};
  const DeviceReserveResult reserved = std::move(client_->Reserve({&item, 1})[0]);
  EXPECT_FALSE(reserved.reservation.has_value());
  EXPECT_EQ(reserved.status.code(), absl::StatusCode::kInternal) << reserved.status;
}

}  // namespace
}  // namespace infercache::gpu
