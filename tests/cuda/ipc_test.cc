#include "common/cuda/ipc.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/legacy_buffer.h"

namespace infercache::cuda {
namespace {

using gpu::LegacyBuffer;
using ::testing::HasSubstr;
using ::testing::Not;

// What crosses processes is in tests/gpu/lending_test.cc.
class IpcTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto context = PrimaryContext::Retain(driver_, device_.ordinal);
    ASSERT_TRUE(context.ok()) << context.status();
    context_ = *std::move(context);
  }
  void TearDown() override {
    context_.reset();
    GpuTest::TearDown();
  }
  AddressRange RangeOf(DevicePointer pointer) {
    const auto range = FindRange(*context_, device_.ordinal, pointer);
    EXPECT_TRUE(range.ok()) << range.status();
    return range.value_or(AddressRange());
  }

  std::shared_ptr<const PrimaryContext> context_;
};

TEST_F(IpcTest, ARangeIsTheAllocationThatAPointerPointsInto) {
  const LegacyBuffer buffer(context_);
  const AddressRange range = RangeOf(buffer.address() + 100);
  EXPECT_EQ(range.base, buffer.address());
  EXPECT_GE(range.bytes, LegacyBuffer::kBytes);
  EXPECT_TRUE(range.Contains(range.base, range.bytes));
  EXPECT_TRUE(range.Contains(range.base + range.bytes, 0));
  EXPECT_FALSE(range.Contains(range.base, range.bytes + 1));
  EXPECT_FALSE(range.Contains(range.base + 1, range.bytes));
  EXPECT_FALSE(range.Contains(range.base - 1, 1));
  EXPECT_FALSE(range.Contains(range.base + 1, ~uint64_t{0}));
}

TEST_F(IpcTest, APointerThatIsNoDevicesHasNoRange) {
  int number = 0;
  const auto range = FindRange(*context_, device_.ordinal, reinterpret_cast<uintptr_t>(&number));
  EXPECT_EQ(range.status().code(), absl::StatusCode::kInvalidArgument) << range.status();
}

TEST_F(IpcTest, MemoryOfCudaMallocIsSharedByAHandle) {
  const LegacyBuffer buffer(context_);
  const auto exported = ExportMemory(*context_, RangeOf(buffer.address()));
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_FALSE(exported->descriptor.valid());
}

TEST_F(IpcTest, AHandleDoesNotOpenInTheProcessThatMadeIt) {
  const LegacyBuffer buffer(context_);
  const auto exported = ExportMemory(*context_, RangeOf(buffer.address()));
  ASSERT_TRUE(exported.ok()) << exported.status();
  bool never = false;
  const auto own_pid = static_cast<uint64_t>(getpid());
  // Something else, whatever it is, if the numbers differ.
  const auto other = IpcMapping::Open(context_, exported->handle, LegacyBuffer::kBytes,
                                      {.exporter_pid = own_pid + 1}, &never);
  EXPECT_FALSE(never);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kInternal) << other.status();
  EXPECT_THAT(std::string(other.status().message()), Not(HasSubstr("PID")));
  const auto opened = IpcMapping::Open(context_, exported->handle, LegacyBuffer::kBytes,
                                       {.exporter_pid = own_pid}, &never);
  EXPECT_TRUE(never);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr(absl::StrCat("it has ", own_pid)));
}

TEST_F(IpcTest, MemoryOfCuMemCreateIsSharedByADescriptor) {
  const auto allocation = Allocation::Create(driver_, device_.ordinal, kChunk);
  ASSERT_TRUE(allocation.ok());
  const auto mapping = Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kReadWrite);
  ASSERT_TRUE(mapping.ok());
  const AddressRange range = RangeOf(mapping->address() + 4096);
  EXPECT_EQ(range.base, mapping->address());
  EXPECT_EQ(range.bytes, kChunk);
  const auto before = is_fake() ? fake().UseOf(0) : fake_cuda::Use();
  const auto exported = ExportMemory(*context_, range);
  ASSERT_TRUE(exported.ok()) << exported.status();
  ASSERT_TRUE(exported->descriptor.valid());
  if (is_fake()) {
    EXPECT_EQ(fake().UseOf(0), before) << "no handle is left behind";
  }
  const auto imported = Allocation::Import(driver_, exported->descriptor, kChunk);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_TRUE(Mapping::Map(*imported, device_.ordinal, Mapping::Access::kRead).ok());
}

TEST_F(IpcTest, MemoryThatWasNotMadeToBeSharedSaysSo) {
  AllocationProperties properties = {};
  properties.type = kAllocationPinned;
  properties.location = {kLocationDevice, device_.ordinal};
  AllocationHandle handle = 0;
  ASSERT_EQ(driver_->api().mem_create(&handle, kChunk, &properties, 0), kSuccess);
  DevicePointer address = 0;
  ASSERT_EQ(driver_->api().mem_address_reserve(&address, kChunk, 0, 0, 0), kSuccess);
  ASSERT_EQ(driver_->api().mem_map(address, kChunk, 0, handle, 0), kSuccess);
  const auto exported = ExportMemory(*context_, RangeOf(address));
  EXPECT_EQ(exported.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(exported.status().message()), HasSubstr("expandable segments"));
  ASSERT_EQ(driver_->api().mem_unmap(address, kChunk), kSuccess);
  ASSERT_EQ(driver_->api().mem_address_free(address, kChunk), kSuccess);
  ASSERT_EQ(driver_->api().mem_release(handle), kSuccess);
}

// Whatever an export failed with, it was said that the memory can never be shared.
TEST_F(IpcTest, ARefusedExportSaysWhetherItMayBeTriedAgain) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const LegacyBuffer legacy(context_);
  const auto allocation = Allocation::Create(driver_, device_.ordinal, kChunk);
  ASSERT_TRUE(allocation.ok());
  const auto mapping = Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kReadWrite);
  ASSERT_TRUE(mapping.ok());
  for (const DevicePointer address : {legacy.address(), mapping->address()}) {
    const auto export_with = [&](uint32_t refused) {
      fake().faults().refuse_exports.store(refused);
      const absl::Status status = ExportMemory(*context_, RangeOf(address)).status();
      EXPECT_EQ(absl::IsUnimplemented(status),
                status.message().find("not allocated to be shared") != absl::string_view::npos)
          << status;
      return status.code();
    };
    EXPECT_EQ(export_with(1), absl::StatusCode::kUnimplemented);
    EXPECT_EQ(export_with(kNotPermitted), absl::StatusCode::kUnimplemented);
    EXPECT_EQ(export_with(kOutOfMemory), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(export_with(kStreamCaptureUnsupported), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(export_with(kIllegalAddress), absl::StatusCode::kInternal);
  }
}

TEST_F(IpcTest, BytesThatAreNoHandleOpenNothing) {
  IpcHandle handle = {};
  handle.bytes[7] = 'x';
  bool never = false;
  EXPECT_TRUE(absl::IsInvalidArgument(IpcMapping::Open(context_, handle, 1, {}, &never).status()));
  EXPECT_FALSE(never) << "the driver may make such a handle yet";
  const auto of_another =
      IpcMapping::Open(context_, handle, 1, {.exporter_user = 11, .own_user = 12}, &never);
  EXPECT_TRUE(absl::IsFailedPrecondition(of_another.status()));
  EXPECT_THAT(std::string(of_another.status().message()),
              HasSubstr("is user 11's, this one user 12's"));
  EXPECT_TRUE(never);
}

}  // namespace
}  // namespace infercache::cuda
