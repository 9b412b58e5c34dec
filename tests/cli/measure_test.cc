// What replay and bench measure with, and the exit codes.

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/bench.h"
#include "client/cli/block_content.h"
#include "client/cli/exit_code.h"
#include "client/cli/latency.h"
#include "client/cli/parallel.h"
#include "gtest/gtest.h"

namespace infercache::cli {
namespace {

TEST(LatencySamples, HasExactPercentiles) {
  LatencySamples samples;
  for (int us = 100; us >= 1; --us) samples.Add(us * 1000);
  EXPECT_EQ(samples.PercentileUs(0.50), 50);
  EXPECT_EQ(samples.PercentileUs(0.99), 99);
  EXPECT_EQ(samples.PercentileUs(1), 100);
  EXPECT_EQ(samples.PercentileUs(0.001), 1);
}

TEST(LatencySamples, OfNothingIsZeroAndOfOneIsThatOne) {
  LatencySamples samples;
  EXPECT_EQ(samples.PercentileUs(0.5), 0);
  samples.Add(1500);
  EXPECT_EQ(samples.PercentileUs(0.01), 1.5);
  EXPECT_EQ(samples.PercentileUs(1), 1.5);
}

TEST(LatencySamples, MergeKeepsAll) {
  LatencySamples a, b;
  a.Add(1000);
  b.Add(3000);
  a.Merge(b);
  EXPECT_EQ(a.count(), 2u);
  EXPECT_EQ(a.PercentileUs(1), 3);
}

TEST(BlockContent, IsRecognisedAtEverySize) {
  for (size_t size = 1; size <= 40; ++size) {
    std::vector<std::byte> block(size);
    FillBlock(7, block);
    EXPECT_EQ(CountWrongBytes(7, block), 0u) << size;
    block.back() ^= std::byte{1};
    EXPECT_EQ(CountWrongBytes(7, block), 1u) << size;
  }
}

TEST(BlockContent, CountsEveryWrongByte) {
  std::vector<std::byte> block(4096);
  FillBlock(1, block);
  for (const size_t i : {0u, 1u, 7u, 8u, 4095u}) block[i] ^= std::byte{0x80};
  EXPECT_EQ(CountWrongBytes(1, block), 5u);
}

TEST(BlockContent, TellsNeighbouringBlocksAndShiftedOnesApart) {
  std::vector<std::byte> block(4096);
  for (const uint64_t id : {uint64_t{0}, uint64_t{41}, UINT64_MAX - 1}) {
    FillBlock(id, block);
    EXPECT_GT(CountWrongBytes(id + 1, block), 4000u);
    EXPECT_GT(CountWrongBytes(id, std::span(block).subspan(8)), 4000u);
  }
}

TEST(RunThreads, RunsEveryIndexOnce) {
  std::vector<int> runs(8, 0);
  RunThreads(
      8, [&runs](int i) { ++runs[i]; }, [] {});
  EXPECT_EQ(runs, std::vector<int>(8, 1));
}

TEST(ExitCode, FollowsFromTheStatus) {
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("key is empty")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("no such namespace")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(absl::PermissionDeniedError("no")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("full")), ExitCode::kFailed);
}

TEST(DefaultKeys, KeepsTheValuesWithin64MiBWherePossible) {
  EXPECT_EQ(DefaultKeys(BenchOp::kMatch, 1), 4096u);
  EXPECT_EQ(DefaultKeys(BenchOp::kGet, 4096), 4096u);
  EXPECT_EQ(DefaultKeys(BenchOp::kGet, 1 << 20), 64u);
  EXPECT_EQ(DefaultKeys(BenchOp::kPut, uint64_t{1} << 40), 16u);
}

}  // namespace
}  // namespace infercache::cli
