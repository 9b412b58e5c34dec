#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "server/store/block_allocator.h"

namespace infercache::store {
namespace {

// One block freed, one of the same size allocated, in a full arena of equal blocks.
void BM_AllocatorEqualBlocks(benchmark::State& state) {
  constexpr uint32_t kBlocks = 100'000;
  constexpr uint32_t kGranules = 64;
  BlockAllocator allocator;
  allocator.AddRegion(0, kBlocks * kGranules);
  std::vector<BlockAllocator::BlockId> blocks;
  for (uint32_t i = 0; i < kBlocks; ++i) blocks.push_back(*allocator.Allocate(kGranules, 1));
  uint64_t x = 1;
  for (auto _ : state) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    auto& block = blocks[(x >> 33) % kBlocks];
    allocator.Free(block);
    block = *allocator.Allocate(kGranules, 1);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_AllocatorEqualBlocks);

// Mixed sizes at about 80 % full.
void BM_AllocatorMixedSizes(benchmark::State& state) {
  BlockAllocator allocator;
  allocator.AddRegion(0, 1u << 26);
  std::vector<BlockAllocator::BlockId> blocks;
  uint64_t x = 1;
  const auto next_size = [&x] {
    x = x * 6364136223846793005u + 1442695040888963407u;
    return uint32_t{16} << ((x >> 33) % 14) | static_cast<uint32_t>((x >> 50) % 16);
  };
  while (allocator.free_granules() > allocator.total_granules() / 5) {
    if (const auto block = allocator.Allocate(next_size(), 1)) blocks.push_back(*block);
  }
  for (auto _ : state) {
    const uint32_t size = next_size();
    auto& block = blocks[(x >> 20) % blocks.size()];
    allocator.Free(block);
    auto fresh = allocator.Allocate(size, 1);
    if (!fresh) fresh = allocator.Allocate(16, 1);
    block = *fresh;
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_AllocatorMixedSizes);

}  // namespace
}  // namespace infercache::store
