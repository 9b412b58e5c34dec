// A reader whose daemon lies about what is lent: it may name any place and any memory, and the
// reader stays within what it has mapped.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "client/src/device_impl.h"
#include "common/cuda/ipc.h"
#include "tests/client/fake_local_daemon.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/device_buffer.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {
namespace {

class LyingDaemon : public cuda::GpuTest {
 protected:
  static constexpr uint64_t kSize = 64;

  void SetUp() override {
    cuda::GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (is_fake()) before_ = fake().UseOf(0);
    context_ = OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal));
    lent_.emplace(driver_, device_.ordinal);
    lent_->Write("text");
    exported_ = OrDie(cuda::ExportMemory(
        *context_, OrDie(cuda::FindRange(*context_, device_.ordinal, lent_->address()))));
  }
  void TearDown() override {
    reader_.reset();
    host_.reset();
    daemon_.reset();
    exported_ = {};
    lent_.reset();
    context_.reset();
    if (is_fake()) {
      EXPECT_TRUE(local::Eventually([&] { return fake().UseOf(0) == before_; })) << "still open";
    }
    cuda::GpuTest::TearDown();
  }
  // A reader of a daemon that says so. As it is by default.
  DeviceGetResult Borrow(const std::function<void(v1::BorrowedItem&)>& lie_of_the_tensor,
                         const std::function<void(v1::LentMemory&)>& lie_of_its_memory) {
    daemon_.emplace([=, this](const v1::LocalRequest& request, FakeLocalDaemon::Answer& answer) {
      if (request.has_hello()) answer.response.mutable_welcome()->set_lending(true);
      if (request.has_borrow()) {
        answer.response.clear_empty();
        v1::BorrowedItem& item = *answer.response.mutable_borrowed()->add_items();
        item.set_loan(1);
        item.set_allocation(7);
        item.mutable_object()->set_size_bytes(kSize);
        lie_of_the_tensor(item);
      }
      if (request.has_map_lent()) {
        v1::LentMemory& memory = *answer.response.mutable_lent_memory();
        memory.set_kind(v1::LentMemory::KIND_DESCRIPTOR);
        memory.set_device(device_.uuid);
        memory.set_size_bytes(DeviceBuffer::kBytes);
        memory.set_allocation(7);
        lie_of_its_memory(memory);
        answer.descriptors = {exported_.descriptor.get()};
      }
    });
    const LocalTransport::Options lane = {.path = daemon_->path(),
                                          .namespace_name = "default",
                                          .fingerprint = *Fingerprint::Make({}),
                                          .device = {},
                                          .clock = {}};
    host_ = OrDie(LocalTransport::Connect(lane));
    reader_ = std::make_unique<Device>(OrDie(Device::Impl::Open(
        {.lane = lane,
         .host = host_,
         .deadline = absl::Seconds(30),
         .view_in_host = [](std::string_view, const CallOptions&) { return GetResult(); }},
        device_.uuid)));
    return reader_->Borrow("key");
  }
  DeviceGetResult Borrow(const std::function<void(v1::BorrowedItem&)>& lie) {
    return Borrow(lie, [](v1::LentMemory&) {});
  }

  fake_cuda::Use before_;
  std::shared_ptr<const cuda::PrimaryContext> context_;
  std::optional<DeviceBuffer> lent_;
  cuda::ExportedMemory exported_;
  std::optional<FakeLocalDaemon> daemon_;
  std::shared_ptr<LocalTransport> host_;
  std::unique_ptr<Device> reader_;
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
    reader_.reset();
    host_.reset();
    daemon_.reset();
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
      Borrow([](v1::BorrowedItem&) {}, [](v1::LentMemory& memory) { memory.set_allocation(8); });
  EXPECT_FALSE(got.hit());
  EXPECT_FALSE(got.status.ok());
}

}  // namespace
}  // namespace infercache::gpu
