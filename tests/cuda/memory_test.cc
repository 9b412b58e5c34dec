#include "common/cuda/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/cuda/gpu_fixture.h"
#include "tests/helper_path.h"

namespace infercache::cuda {
namespace {

using ::testing::HasSubstr;

class MemoryTest : public GpuTest {
 protected:
  absl::StatusOr<Allocation> Create(uint64_t bytes = kChunk) {
    return Allocation::Create(driver_, device_.ordinal, bytes);
  }
  // Through a context of its own.
  absl::Status CopyIn(DevicePointer to, const std::vector<char>& from) {
    const auto context = PrimaryContext::Retain(driver_, device_.ordinal);
    if (!context.ok()) return context.status();
    const CurrentContext current(**context);
    const auto copied = driver_->Check(
        driver_->api().memcpy_htod_async(to, from.data(), from.size(), nullptr), "copy in");
    if (!copied.ok()) return copied;
    return driver_->Check(driver_->api().stream_synchronize(nullptr), "synchronize");
  }
  absl::Status CopyOut(std::vector<char>* to, DevicePointer from) {
    const auto context = PrimaryContext::Retain(driver_, device_.ordinal);
    if (!context.ok()) return context.status();
    const CurrentContext current(**context);
    const auto copied = driver_->Check(
        driver_->api().memcpy_dtoh_async(to->data(), from, to->size(), nullptr), "copy out");
    if (!copied.ok()) return copied;
    return driver_->Check(driver_->api().stream_synchronize(nullptr), "synchronize");
  }
};

TEST_F(MemoryTest, TwoMappingsOfOneAllocationShareItsBytes) {
  auto allocation = Create();
  ASSERT_TRUE(allocation.ok()) << allocation.status();
  const auto fd = allocation->Export();
  ASSERT_TRUE(fd.ok()) << fd.status();
  const auto imported = Allocation::Import(driver_, *fd, kChunk);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const auto writable = Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kReadWrite);
  ASSERT_TRUE(writable.ok()) << writable.status();
  const auto readable = Mapping::Map(*imported, device_.ordinal, Mapping::Access::kRead);
  ASSERT_TRUE(readable.ok()) << readable.status();
  EXPECT_NE(readable->address(), writable->address());
  const std::vector<char> sent = {'b', 'y', 't', 'e', 's'};
  ASSERT_TRUE(CopyIn(writable->address() + 100, sent).ok());
  std::vector<char> received(sent.size());
  ASSERT_TRUE(CopyOut(&received, readable->address() + 100).ok());
  EXPECT_EQ(received, sent);
}

TEST_F(MemoryTest, AMappingKeepsTheMemoryAndGivesItBack) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell what is held";
  const auto before = fake().UseOf(0);
  {
    auto allocation = Create();
    ASSERT_TRUE(allocation.ok());
    EXPECT_EQ(fake().UseOf(0).bytes, before.bytes + kChunk);
    auto mapping = Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kReadWrite);
    ASSERT_TRUE(mapping.ok());
    { const Allocation gone = *std::move(allocation); }
    EXPECT_EQ(fake().UseOf(0).allocations, before.allocations + 1);
    EXPECT_EQ(fake().UseOf(0).handles, before.handles);
    const Mapping moved = *std::move(mapping);
    EXPECT_TRUE(CopyIn(moved.address(), {'x'}).ok());
  }
  EXPECT_EQ(fake().UseOf(0), before);
}

TEST_F(MemoryTest, AllocatingAndExportingTakesNoContext) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const uint64_t before = fake().calls().contexts.load();
  auto allocation = Create();
  ASSERT_TRUE(allocation.ok());
  ASSERT_TRUE(allocation->Export().ok());
  EXPECT_EQ(fake().calls().contexts.load(), before);
}

TEST_F(MemoryTest, AFullDeviceIsResourceExhausted) {
  const uint64_t too_much = (device_.total_bytes / kChunk + 1) * kChunk;
  const auto allocation = Create(too_much);
  EXPECT_EQ(allocation.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(allocation.status().message(), HasSubstr("cuMemCreate"));
  EXPECT_THAT(allocation.status().message(), HasSubstr("CUDA_ERROR_OUT_OF_MEMORY"));
  EXPECT_TRUE(Create().ok());
}

TEST_F(MemoryTest, WrongSizesAndDescriptorsAreRefused) {
  EXPECT_FALSE(Create(kChunk + 1).ok());
  auto allocation = Create();
  ASSERT_TRUE(allocation.ok());
  const auto fd = allocation->Export();
  ASSERT_TRUE(fd.ok());
  // A sender that says less or more than there is.
  for (const uint64_t wrong : {2 * kChunk}) {
    const auto imported = Allocation::Import(driver_, *fd, wrong);
    if (!imported.ok()) continue;
    EXPECT_FALSE(Mapping::Map(*imported, device_.ordinal, Mapping::Access::kRead).ok());
  }
  const UniqueFd other(memfd_create("other", MFD_CLOEXEC));
  EXPECT_FALSE(Allocation::Import(driver_, other, kChunk).ok());
}

TEST_F(MemoryTest, ARefusedExportSaysSo) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  auto allocation = Create();
  ASSERT_TRUE(allocation.ok());
  fake().faults().refuse_exports.store(1);
  EXPECT_EQ(allocation->Export().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(allocation->Export().status().message(), HasSubstr("cuMemExportToShareableHandle"));
}

TEST_F(MemoryTest, WritingIntoAReadOnlyMappingKillsTheContextAlone) {
  if (!is_fake()) GTEST_SKIP() << "would take this process's real context along";
  auto allocation = Create();
  ASSERT_TRUE(allocation.ok());
  const auto readable = Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kRead);
  ASSERT_TRUE(readable.ok());
  EXPECT_EQ(CopyIn(readable->address(), {'x'}).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(
      CopyIn(Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kReadWrite)->address(), {})
          .ok())
      << "a new context works";
}

TEST_F(MemoryTest, ADeviceAddressIsNoMemoryOfTheCpu) {
  if (!is_fake()) GTEST_SKIP() << "what a real one does depends on the machine";
  auto allocation = Create();
  ASSERT_TRUE(allocation.ok());
  const auto mapping = Mapping::Map(*allocation, device_.ordinal, Mapping::Access::kReadWrite);
  ASSERT_TRUE(mapping.ok());
  const auto address = static_cast<uintptr_t>(mapping->address());
  EXPECT_DEATH((void)*reinterpret_cast<volatile char*>(address), "");
}

TEST_F(MemoryTest, WhatAKilledProcessHeldIsFree) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const auto before = fake().UseOf(0);
  const std::string holder = HelperPath(CUDA_HOLDER);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ready[1], STDOUT_FILENO);
    execl(holder.c_str(), holder.c_str(), nullptr);
    _exit(127);
  }
  close(ready[1]);
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1) << "the child came to nothing";
  EXPECT_EQ(fake().UseOf(0).bytes, before.bytes + kChunk);
  EXPECT_EQ(fake().UseOf(0).mappings, before.mappings + 1);
  kill(child, SIGKILL);
  // Before it is waited for: a zombie holds nothing.
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(fake().UseOf(0), before);
  waitpid(child, nullptr, 0);
  close(ready[0]);
}

}  // namespace
}  // namespace infercache::cuda
