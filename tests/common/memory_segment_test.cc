#include "common/memory_segment.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace infercache {
namespace {

using Access = MemorySegment::Access;

constexpr uint64_t kPage = 4096;

MemorySegment MustCreate(uint64_t size, Access access) {
  auto segment = MemorySegment::Create("infercache-test", size, access);
  EXPECT_TRUE(segment.ok()) << segment.status();
  return *std::move(segment);
}

TEST(MemorySegment, IsZeroedAndRoundedToPages) {
  const MemorySegment segment = MustCreate(kPage + 1, Access::kWritableForOthers);
  ASSERT_EQ(segment.bytes().size(), 2 * kPage);
  for (const std::byte b : segment.bytes()) ASSERT_EQ(b, std::byte{0});
  struct stat file {};
  ASSERT_EQ(fstat(segment.fd(), &file), 0);
  EXPECT_EQ(static_cast<uint64_t>(file.st_size), 2 * kPage);
  EXPECT_EQ(file.st_mode & 0777, mode_t{0600});
  EXPECT_NE(fcntl(segment.fd(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(MemorySegment, ItsSizeIsFinal) {
  for (const Access access : {Access::kWritableForOthers, Access::kReadOnlyForOthers}) {
    const MemorySegment segment = MustCreate(4 * kPage, access);
    EXPECT_EQ(ftruncate(segment.fd(), kPage), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(ftruncate(segment.fd(), 8 * kPage), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(fcntl(segment.fd(), F_ADD_SEALS, F_SEAL_WRITE), -1) << "seals can still be added";
    EXPECT_EQ(errno, EPERM);
  }
}

TEST(MemorySegment, SealsAreWhatTheHeaderSays) {
  const int common = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  EXPECT_EQ(fcntl(MustCreate(kPage, Access::kWritableForOthers).fd(), F_GET_SEALS), common);
  EXPECT_EQ(fcntl(MustCreate(kPage, Access::kReadOnlyForOthers).fd(), F_GET_SEALS),
            common | F_SEAL_FUTURE_WRITE);
}

TEST(MemorySegment, WritableForOthersCanBeMappedWritable) {
  const MemorySegment segment = MustCreate(kPage, Access::kWritableForOthers);
  void* other = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd(), 0);
  ASSERT_NE(other, MAP_FAILED);
  std::memcpy(other, "shared", 6);
  EXPECT_EQ(std::memcmp(segment.bytes().data(), "shared", 6), 0);
  munmap(other, kPage);
}

// Every way to change the bytes of a read-only segment that a holder of its descriptor has, even
// one with our uid.
TEST(MemorySegment, ReadOnlyForOthersCannotBeWritten) {
  const MemorySegment segment = MustCreate(kPage, Access::kReadOnlyForOthers);
  std::memcpy(segment.bytes().data(), "before", 6);

  EXPECT_EQ(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(pwrite(segment.fd(), "spoilt", 6, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fallocate(segment.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), -1);
  EXPECT_EQ(errno, EPERM);

  void* reader = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, segment.fd(), 0);
  ASSERT_NE(reader, MAP_FAILED);
  EXPECT_EQ(mprotect(reader, kPage, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);

  const std::string path = "/proc/self/fd/" + std::to_string(segment.fd());
  const UniqueFd reopened(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (reopened.valid()) {
    EXPECT_EQ(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, reopened.get(), 0),
              MAP_FAILED);
    EXPECT_EQ(pwrite(reopened.get(), "spoilt", 6, 0), -1);
  }

  EXPECT_EQ(std::memcmp(reader, "before", 6), 0);
  std::memcpy(segment.bytes().data(), "behind", 6);  // its creator still writes
  EXPECT_EQ(std::memcmp(reader, "behind", 6), 0);
  munmap(reader, kPage);
}

TEST(MemorySegment, PopulateBacksEveryPage) {
  constexpr uint64_t kSize = 256 * kPage;
  MemorySegment segment = MustCreate(kSize, Access::kWritableForOthers);
  struct stat before {};
  ASSERT_EQ(fstat(segment.fd(), &before), 0);
  EXPECT_EQ(before.st_blocks, 0);
  ASSERT_TRUE(segment.Populate().ok());
  struct stat after {};
  ASSERT_EQ(fstat(segment.fd(), &after), 0);
  EXPECT_EQ(static_cast<uint64_t>(after.st_blocks) * 512, kSize);
}

TEST(MemorySegment, PopulateKeepsWhatWasWritten) {
  MemorySegment segment = MustCreate(4 * kPage, Access::kReadOnlyForOthers);
  std::memcpy(segment.bytes().data() + kPage, "kept", 4);
  ASSERT_TRUE(segment.Populate().ok());
  EXPECT_EQ(std::memcmp(segment.bytes().data() + kPage, "kept", 4), 0);
}

TEST(MemorySegment, MovingHandsOverMappingAndDescriptor) {
  MemorySegment first = MustCreate(kPage, Access::kWritableForOthers);
  const std::byte* const base = first.bytes().data();
  const int fd = first.fd();
  MemorySegment second(std::move(first));
  EXPECT_EQ(second.bytes().data(), base);
  EXPECT_EQ(second.fd(), fd);
  EXPECT_TRUE(first.bytes().empty());  // NOLINT(bugprone-use-after-move): that is the point
  EXPECT_EQ(first.fd(), -1);

  MemorySegment third = MustCreate(kPage, Access::kWritableForOthers);
  const int replaced = third.fd();
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), base);
  EXPECT_EQ(fcntl(replaced, F_GETFD), -1) << "the replaced segment's descriptor leaked";
}

TEST(MemorySegment, DescriptorAndMappingGoWithTheOwner) {
  int fd = -1;
  std::byte* base = nullptr;
  {
    const MemorySegment segment = MustCreate(kPage, Access::kWritableForOthers);
    fd = segment.fd();
    base = segment.bytes().data();
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
  EXPECT_EQ(msync(base, kPage, MS_ASYNC), -1);
  EXPECT_EQ(errno, ENOMEM) << "still mapped";
}

TEST(MemorySegment, RunningOutOfDescriptorsIsAnErrorThatNamesTheCall) {
  rlimit saved{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &saved), 0);
  const int next = dup(STDERR_FILENO);
  ASSERT_GE(next, 0);
  close(next);
  const rlimit none_left{static_cast<rlim_t>(next), saved.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none_left), 0);
  const auto segment = MemorySegment::Create("infercache-test", kPage, Access::kWritableForOthers);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &saved), 0);
  EXPECT_EQ(segment.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(segment.status().message().find("memfd_create"), absl::string_view::npos);
}

TEST(MemorySegment, ImpossibleSizesAreErrors) {
  EXPECT_FALSE(MemorySegment::Create("infercache-test", 0, Access::kWritableForOthers).ok());
  EXPECT_FALSE(
      MemorySegment::Create("infercache-test", ~uint64_t{0}, Access::kWritableForOthers).ok());
  EXPECT_FALSE(
      MemorySegment::Create("infercache-test", uint64_t{1} << 63, Access::kWritableForOthers).ok());
}

TEST(MemorySegment, DefaultIsEmpty) {
  const MemorySegment none;
  EXPECT_TRUE(none.bytes().empty());
  EXPECT_EQ(none.fd(), -1);
}

TEST(MemorySegment, ReadOnlyDescriptorsCannotBeMappedForWriting) {
  const MemorySegment segment = MustCreate(kPage, Access::kWritableForOthers);
  const auto fd = segment.OpenReadOnly();
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  void* base = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd->get(), 0);
  ASSERT_NE(base, MAP_FAILED);
  EXPECT_NE(mprotect(base, kPage, PROT_READ | PROT_WRITE), 0);
  munmap(base, kPage);
}

TEST(MemorySegment, SmallSegmentsHaveSmallPages) {
  EXPECT_EQ(ChoosePages(PageChoice::kAuto, kPage), PageKind::k4k);
  EXPECT_EQ(ChoosePages(PageChoice::k4k, uint64_t{1} << 30), PageKind::k4k);
  EXPECT_EQ(ChoosePages(PageChoice::kHugetlb, kPage), PageKind::kHugetlb);
}

// Whatever pages the machine has: what kAuto chooses can be made and populated.
TEST(MemorySegment, WhatIsChosenCanBeMade) {
  const uint64_t size = 4 * kHugePageBytes;
  const PageKind kind = ChoosePages(PageChoice::kAuto, size);
  auto segment = MemorySegment::Create("infercache-test", size, Access::kWritableForOthers, kind);
  ASSERT_TRUE(segment.ok()) << PageKindName(kind) << ": " << segment.status();
  EXPECT_TRUE(segment->Populate().ok());
  EXPECT_EQ(segment->bytes().size(), size);
}

TEST(MemorySegment, MoreHugePagesThanThereAreIsAnErrorNotASignal) {
  const auto segment = MemorySegment::Create("infercache-test", uint64_t{1} << 44,
                                             Access::kWritableForOthers, PageKind::kHugetlb);
  ASSERT_FALSE(segment.ok());
  if (access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK) != 0) return;
  EXPECT_NE(segment.status().message().find("8388608 free pages of 2 MiB (vm.nr_hugepages)"),
            std::string::npos)
      << segment.status();
}

}  // namespace
}  // namespace infercache
