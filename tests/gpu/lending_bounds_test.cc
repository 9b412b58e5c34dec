// Owners that lie about what they lend, and readers that write to what they borrowed. The owner is
// this process, with memory of its own and every word of the protocol to choose; the readers are
// workers.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "common/cuda/ipc.h"
#include "tests/gpu/device_buffer.h"
#include "tests/gpu/legacy_buffer.h"
#include "tests/gpu/lending_fixture.h"

namespace infercache::gpu {
namespace {

constexpr uint64_t kSize = 64;

class LendingBounds : public GpuLending {
 protected:
  void SetUp() override {
    GpuLending::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    context_ = OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal));
    if (legacy()) {
      address_ = by_handle_.emplace(context_).address();
    } else {
      address_ = by_descriptor_.emplace(driver_, device_.ordinal).address();
    }
    range_ = OrDie(cuda::FindRange(*context_, device_.ordinal, address_));
    exported_ = OrDie(cuda::ExportMemory(*context_, range_));
    local::RawClient client = Connect();
    const absl::Status opened = client.Open();
    EXPECT_TRUE(opened.ok()) << opened;
    owner_.emplace(std::move(client));
    buffer_.emplace(driver_, device_.ordinal);
    buffer_->WriteTo(address_, "text.");
    reader_.emplace(Start());
  }
  void TearDown() override {
    reader_.reset();
    owner_.reset();
    exported_ = {};
    by_handle_.reset();
    by_descriptor_.reset();
    buffer_.reset();
    context_.reset();
    GpuLending::TearDown();
  }

  bool legacy() const { return std::string(GetParam()) == "legacy"; }
  // As it is.
  v1::LentMemory Honest() const {
    v1::LentMemory memory;
    memory.set_device(device_.uuid);
    memory.set_size_bytes(range_.bytes);
    memory.set_pid(static_cast<uint64_t>(getpid()));
    if (legacy()) {
      memory.set_kind(v1::LentMemory::KIND_LEGACY);
      memory.set_handle(exported_.handle.bytes, sizeof exported_.handle.bytes);
    } else {
      memory.set_kind(v1::LentMemory::KIND_DESCRIPTOR);
    }
    return memory;
  }
  // Whether the daemon took it.
  bool Lend(const v1::LentMemory& memory, const std::string& key, uint64_t offset,
            uint64_t size = kSize) {
    return LendWith(memory, exported_.descriptor.get(), key, offset, size);
  }
  bool LendWith(const v1::LentMemory& memory, int descriptor, const std::string& key,
                uint64_t offset, uint64_t size = kSize) {
    v1::LocalRequest request;
    *request.mutable_lend()->mutable_memory() = memory;
    v1::LendItem& item = *request.mutable_lend()->add_items();
    item.set_key(key);
    item.set_offset(offset);
    item.mutable_object()->set_size_bytes(size);
    const auto answer = memory.kind() == v1::LentMemory::KIND_LEGACY
                            ? owner_->raw().Ask(request)
                            : owner_->raw().AskWith(request, descriptor);
    return answer.ok() && answer->response.lent().items(0).code() == 0;
  }
  // The reader has no address, nothing open, and goes on to work with who is honest.
  void ExpectNothingCameOfIt(const std::string& key) {
    const fake_cuda::Use before = is_fake() ? fake().UseOf(0) : fake_cuda::Use();
    const std::string answer = reader_->Do("borrow " + key);
    EXPECT_NE(answer, "hit");
    EXPECT_NE(answer, "miss");
    if (is_fake()) {
      EXPECT_EQ(fake().UseOf(0), before);
    }
    EXPECT_NE(reader_->Do("borrow " + key), "hit") << "the second time";
    ASSERT_TRUE(Lend(Honest(), "honest/" + key, 0));
    EXPECT_EQ(reader_->Do("borrow honest/" + key), "hit");
    EXPECT_EQ(reader_->Do("read"), "text");
    EXPECT_EQ(reader_->Do("release"), "ok");
  }

  std::shared_ptr<const cuda::PrimaryContext> context_;
  std::optional<LegacyBuffer> by_handle_;
  std::optional<DeviceBuffer> by_descriptor_, buffer_;
  cuda::DevicePointer address_ = 0;
  cuda::AddressRange range_;
  cuda::ExportedMemory exported_;
  std::optional<local::Worker> owner_;
  std::optional<Told> reader_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, LendingBounds, ::testing::Values("legacy", "vmm"));

TEST_P(LendingBounds, WhoTellsTheTruthIsRead) {
  ASSERT_TRUE(Lend(Honest(), "key", 0));
  EXPECT_EQ(reader_->Do("borrow key"), "hit");
  EXPECT_EQ(reader_->Do("read"), "text");
  ASSERT_TRUE(Lend(Honest(), "last", range_.bytes - kSize));
  EXPECT_EQ(reader_->Do("borrow last"), "hit");
}

TEST_P(LendingBounds, AnAllocationThatIsSaidToBeLargerThanItIs) {
  int lies = 0;
  for (const uint64_t more : {uint64_t{1}, uint64_t{4096}, range_.bytes, uint64_t{1} << 30}) {
    SCOPED_TRACE(more);
    v1::LentMemory memory = Honest();
    memory.set_size_bytes(range_.bytes + more);
    const std::string key = "lie" + std::to_string(++lies);
    // Behind its end, or over it.
    ASSERT_TRUE(Lend(memory, key, range_.bytes + more - kSize));
    ExpectNothingCameOfIt(key);
    // Not even where the tensor itself would lie within.
    ASSERT_TRUE(Lend(memory, key + "within", 0));
    ExpectNothingCameOfIt(key + "within");
  }
}

TEST_P(LendingBounds, AnAllocationThatIsSaidToHaveNoEnd) {
  for (const uint64_t bytes : {uint64_t{0}, ~uint64_t{0}, ~uint64_t{0} - kSize}) {
    v1::LentMemory memory = Honest();
    memory.set_size_bytes(bytes);
    EXPECT_FALSE(Lend(memory, "key", 0)) << bytes;
  }
  EXPECT_EQ(reader_->Do("borrow key"), "miss");
}

TEST_P(LendingBounds, ATensorThatIsSaidToLieOutside) {
  const uint64_t all = range_.bytes;
  EXPECT_FALSE(Lend(Honest(), "key", all));
  EXPECT_FALSE(Lend(Honest(), "key", all - kSize + 1));
  EXPECT_FALSE(Lend(Honest(), "key", ~uint64_t{0}));
  EXPECT_FALSE(Lend(Honest(), "key", ~uint64_t{0} - kSize + 1)) << "the sum is 0";
  EXPECT_FALSE(Lend(Honest(), "key", 0, all + 1));
  EXPECT_FALSE(Lend(Honest(), "key", 1, all));
  EXPECT_FALSE(Lend(Honest(), "key", kSize, ~uint64_t{0} - kSize + 1)) << "the sum is 0";
  EXPECT_EQ(reader_->Do("borrow key"), "miss");
}

// What it names as its end is inside: the reader stays within that, or has nothing.
TEST_P(LendingBounds, AnAllocationThatIsSaidToBeSmallerThanItIs) {
  v1::LentMemory memory = Honest();
  memory.set_size_bytes(4096);
  EXPECT_FALSE(Lend(memory, "key", 4096));
  ASSERT_TRUE(Lend(memory, "key", 0));
  if (reader_->Do("borrow key") == "hit") {
    EXPECT_EQ(reader_->Do("read"), "text");
  }
}

TEST_P(LendingBounds, WhatIsNoMemoryOfAGpu) {
  v1::LentMemory memory = Honest();
  if (legacy()) {
    memory.set_handle(std::string(sizeof exported_.handle.bytes, 'x'));
    ASSERT_TRUE(Lend(memory, "key", 0));
    ExpectNothingCameOfIt("key");
    return;
  }
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd pipe_end(ends[0]), other_end(ends[1]);
  ASSERT_TRUE(LendWith(memory, pipe_end.get(), "pipe", 0));
  ExpectNothingCameOfIt("pipe");
  const UniqueFd file(memfd_create("no GPU's", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(range_.bytes)), 0);
  ASSERT_TRUE(LendWith(memory, file.get(), "file", 0));
  ExpectNothingCameOfIt("file");
}

// --- What legacy handles name ---

TEST_P(LendingBounds, AHandleOfAPointerInsideIsItsAllocations) {
  if (!legacy()) GTEST_SKIP() << "of handles alone";
  {
    const cuda::CurrentContext current(*context_);
    ASSERT_EQ(driver_->api().ipc_get_mem_handle(&exported_.handle, address_ + 4096),
              cuda::kSuccess);
  }
  ASSERT_TRUE(Lend(Honest(), "key", 0));
  EXPECT_EQ(reader_->Do("borrow key"), "hit");
  EXPECT_EQ(reader_->Do("read"), "text") << "what is at the allocation's beginning";
}

TEST_P(LendingBounds, AHandleOfWhatWasFreedOpensNothing) {
  if (!legacy()) GTEST_SKIP() << "of handles alone";
  ASSERT_TRUE(Lend(Honest(), "key", 0));
  by_handle_.reset();
  EXPECT_NE(reader_->Do("borrow key"), "hit");
  EXPECT_NE(reader_->Do("why").find("cuIpcOpenMemHandle"), std::string::npos) << reader_->Do("why");
  if (is_fake()) {
    EXPECT_EQ(fake().UseOf(0).opened, 0u);
  }
}

// --- Whose handles CUDA does not tell apart ---

// As in two containers, whose workers have one PID value: here the owner says that it has the
// reader's.
TEST_P(LendingBounds, TheSamePidIsToldApartOnlyByADescriptor) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().same_pid.store(1);
  exported_ = OrDie(cuda::ExportMemory(*context_, range_));
  v1::LentMemory memory = Honest();
  memory.set_pid(std::stoull(reader_->Do("pid")));
  ASSERT_TRUE(Lend(memory, "key", 0));
  ASSERT_TRUE(Lend(memory, "both", 0));
  std::string in_host = "text";
  in_host.resize(kSize, '.');
  store::NamespaceVerbs(*store_->FindNamespace("default")).MustPut("both", in_host);
  EXPECT_EQ(reader_->Do("borrow key"), legacy() ? "FAILED_PRECONDITION" : "hit");
  const uint64_t opens = Opens();
  EXPECT_EQ(reader_->Do("borrow key"), legacy() ? "FAILED_PRECONDITION" : "hit");
  EXPECT_EQ(Opens(), opens) << "what fails for good is not tried again";
  // It was a miss like any other, and the daemon counted it as a hit.
  EXPECT_EQ(reader_->Do("in_host"), "none");
  EXPECT_EQ(reader_->Do("not_opened"), legacy() ? "2 0 0" : "0 0 0");
  EXPECT_EQ(reader_->Do("borrow both"), legacy() ? "FAILED_PRECONDITION" : "hit");
  EXPECT_EQ(reader_->Do("in_host"), legacy() ? "text" : "none");
  EXPECT_EQ(reader_->Do("not_opened"), legacy() ? "3 1 64" : "0 0 0");
  EXPECT_TRUE(local::Eventually([&] {
    const local::LendingStats stats = server_->stats().lending;
    return stats.borrows_found == 3 && stats.borrows_not_opened == (legacy() ? 3u : 0u);
  }));
}

// --- Who writes ---

// By a handle the reader could, which is why readers are local_writers.
TEST_P(LendingBounds, ADescriptorIsMappedForReadingAndAHandleForBoth) {
  Told owner = StartOwner(GetParam());
  EXPECT_EQ(reader_->Do("borrow key"), "hit");
  if (legacy()) {
    EXPECT_EQ(reader_->Do("write spoiled."), "ok");
    EXPECT_EQ(owner.Do("borrow key"), "hit");
    EXPECT_EQ(owner.Do("read"), "spoiled");
    return;
  }
  const std::string written = reader_->Do("write spoiled.");
  EXPECT_NE(written, "ok");
  EXPECT_EQ(owner.Do("borrow key"), "hit");
  EXPECT_EQ(owner.Do("read"), "text") << "the bytes are what they were";
  Told other = StartReader();
  EXPECT_EQ(other.Do("read"), "text");
  // As docs/gpu.md says: the writer's context is gone, and nobody else's.
  if (is_fake()) {
    EXPECT_NE(reader_->Do("fill anything"), "ok");
    EXPECT_EQ(owner.Do("fill changed"), "ok");
    EXPECT_EQ(other.Do("read"), "changed");
  }
}

}  // namespace
}  // namespace infercache::gpu
