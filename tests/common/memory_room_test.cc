// Cgroups made of files: version 1 and 2, limits above the process's own group, page cache.

#include "common/memory_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/memory_segment.h"
#include "tests/common/kernel_files.h"

namespace infercache {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr char kMount[] = "/sys/fs/cgroup";

class MemoryRoomTest : public ::testing::Test {
 protected:
  bool Fits(uint64_t bytes) const { return MemoryRoom(files_.root()).Check(bytes).ok(); }
  std::string Why(uint64_t bytes) const {
    const absl::Status status = MemoryRoom(files_.root()).Check(bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    return std::string(status.message());
  }

  const KernelFiles files_;
};

TEST_F(MemoryRoomTest, WithoutAFileThatSaysSoThereIsNoLimit) {
  EXPECT_TRUE(Fits(uint64_t{1} << 50));
  files_.Write("/proc/self/cgroup", "0::/a\n");
  files_.WriteNumber(std::string(kMount) + "/memory.current", 100 * kMiB);
  EXPECT_TRUE(Fits(uint64_t{1} << 50));
  files_.Write(std::string(kMount) + "/a/memory.max", "max\n");
  EXPECT_TRUE(Fits(uint64_t{1} << 50));
}

TEST_F(MemoryRoomTest, OfVersion2EveryGroupUpwardsCounts) {
  files_.Write("/proc/self/cgroup", "0::/outer/inner\n");
  const std::string outer = std::string(kMount) + "/outer";
  files_.WriteNumber(outer + "/memory.max", 200 * kMiB);
  files_.WriteNumber(outer + "/memory.current", 100 * kMiB);
  EXPECT_TRUE(Fits(90 * kMiB));
  EXPECT_FALSE(Fits(100 * kMiB)) << "something is left for all else";
  EXPECT_THAT(Why(100 * kMiB), HasSubstr("/sys/fs/cgroup/outer/memory.max is 209715200, of which "
                                         "104857600 are in use"));
  files_.WriteNumber(outer + "/inner/memory.max", 50 * kMiB);
  files_.WriteNumber(outer + "/inner/memory.current", kMiB);
  EXPECT_TRUE(Fits(40 * kMiB));
  EXPECT_THAT(Why(50 * kMiB), HasSubstr("/outer/inner/memory.max"));
}

// A daemon above it was not ended, but throttled to a crawl.
TEST_F(MemoryRoomTest, OfVersion2TheLowerOfMaxAndHighCounts) {
  files_.Write("/proc/self/cgroup", "0::/\n");
  const std::string mount = kMount;
  files_.WriteNumber(mount + "/memory.max", 200 * kMiB);
  files_.WriteNumber(mount + "/memory.high", 100 * kMiB);
  EXPECT_TRUE(Fits(90 * kMiB));
  EXPECT_FALSE(Fits(100 * kMiB));
  EXPECT_THAT(Why(100 * kMiB), HasSubstr("/sys/fs/cgroup/memory.high is 104857600"));
  files_.WriteNumber(mount + "/memory.high", 300 * kMiB);
  EXPECT_TRUE(Fits(190 * kMiB));
  EXPECT_THAT(Why(200 * kMiB), HasSubstr("/sys/fs/cgroup/memory.max is 209715200"));
  files_.Write(mount + "/memory.max", "max\n");
  EXPECT_THAT(Why(300 * kMiB), HasSubstr("/sys/fs/cgroup/memory.high is 314572800"));
  files_.Write(mount + "/memory.high", "max\n");
  EXPECT_TRUE(Fits(uint64_t{1} << 50));
}

TEST_F(MemoryRoomTest, PageCacheIsFreeAndSharedMemoryIsNot) {
  files_.Write("/proc/self/cgroup", "0::/\n");
  const std::string mount = kMount;
  files_.WriteNumber(mount + "/memory.max", 100 * kMiB);
  files_.WriteNumber(mount + "/memory.current", 100 * kMiB);
  files_.Write(mount + "/memory.stat", "anon 1\nfile 104857600\nshmem 104857600\n");
  EXPECT_FALSE(Fits(kMiB));
  files_.Write(mount + "/memory.stat",
               "file 104857600\nshmem 52428800\ninactive_file 31457280\nactive_file 20971520\n");
  EXPECT_TRUE(Fits(40 * kMiB));
  EXPECT_FALSE(Fits(50 * kMiB));
}

TEST_F(MemoryRoomTest, OfVersion1InAContainerThatSeesTheHostsPath) {
  files_.Write("/proc/self/cgroup", "5:cpu,memory:/docker/abc\n4:cpuset:/\n0::/\n");
  const std::string mount = std::string(kMount) + "/memory";
  files_.Write(mount + "/memory.limit_in_bytes", "9223372036854771712\n");
  files_.WriteNumber(mount + "/memory.usage_in_bytes", 100 * kMiB);
  EXPECT_TRUE(Fits(uint64_t{1} << 50));
  files_.WriteNumber(mount + "/memory.limit_in_bytes", 120 * kMiB);
  EXPECT_TRUE(Fits(10 * kMiB));
  EXPECT_FALSE(Fits(20 * kMiB));
  files_.Write(mount + "/memory.stat", "total_inactive_file 52428800\ninactive_file 0\n");
  EXPECT_TRUE(Fits(60 * kMiB));
}

TEST_F(MemoryRoomTest, TheMachineIsTheOutermostGroup) {
  files_.Write("/proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable:  524288 kB\n");
  EXPECT_TRUE(Fits(500 * kMiB));
  EXPECT_THAT(Why(512 * kMiB), HasSubstr("524288 KiB are available"));
  files_.Write("/proc/meminfo", "MemAvailable: 524288 kB\nSwapFree: 524288 kB\n");
  EXPECT_TRUE(Fits(1000 * kMiB));
}

TEST_F(MemoryRoomTest, ASegmentThatDoesNotFitTakesNoMemory) {
  files_.Write("/proc/self/cgroup", "0::/\n");
  files_.WriteNumber(std::string(kMount) + "/memory.max", 100 * kMiB);
  auto segment = MemorySegment::Create("infercache-test", 100 * kMiB,
                                       MemorySegment::Access::kWritableForOthers);
  ASSERT_TRUE(segment.ok());
  const absl::Status status = segment->Populate({.room = MemoryRoom(files_.root())});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(PagesPresent(segment->bytes()), 0u);
}

TEST_F(MemoryRoomTest, WhoTakesMemoryMeanwhileIsSeen) {
  files_.Write("/proc/self/cgroup", "0::/\n");
  files_.WriteNumber(std::string(kMount) + "/memory.max", 400 * kMiB);
  auto segment = MemorySegment::Create("infercache-test", 192 * kMiB,
                                       MemorySegment::Access::kWritableForOthers);
  ASSERT_TRUE(segment.ok());
  const auto another = [this] {
    files_.WriteNumber(std::string(kMount) + "/memory.current", 300 * kMiB);
    return false;
  };
  const absl::Status status =
      segment->Populate({.room = MemoryRoom(files_.root()), .stopping = another});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_LT(PagesPresent(segment->bytes()) * 4096, 192 * kMiB);
}

TEST_F(MemoryRoomTest, ASegmentThatNobodyWantsAnyMoreIsNotFinished) {
  auto segment = MemorySegment::Create("infercache-test", 192 * kMiB,
                                       MemorySegment::Access::kWritableForOthers);
  ASSERT_TRUE(segment.ok());
  int asked = 0;
  const absl::Status status = segment->Populate(
      {.room = MemoryRoom(files_.root()), .stopping = [&asked] { return ++asked == 2; }});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(asked, 2);
  EXPECT_LT(PagesPresent(segment->bytes()) * 4096, 192 * kMiB);
}

}  // namespace
}  // namespace infercache
