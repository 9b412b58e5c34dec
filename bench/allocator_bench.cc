#include <benchmark/benchmark.h>

#include <cstdint>

#include "server/store/block_allocator.h"

namespace infercache::store {
namespace {

// One block freed, one of the same size allocated, in a full arena of equal blocks.
void BM_AllocatorEqualBlocks(benchmark::State& state) {
  constexpr uint32_t kBlocks = 100'000;
  constexpr uint32_t kGranules = 64;
  BlockAllocator allocator = *BlockAllocator::Create(kBlocks);
  allocator.AddRegion(0, kBlocks * kGranules);
  for (uint32_t i = 1; i <= kBlocks; ++i) (void)allocator.Allocate(i, kGranules);
  uint64_t x = 1;
  for (auto _ : state) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const auto owner = static_cast<uint32_t>((x >> 33) % kBlocks + 1);
    allocator.Free(owner);
    (void)allocator.Allocate(owner, kGranules);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_AllocatorEqualBlocks);

// Mixed sizes at about 80 % full.
void BM_AllocatorMixedSizes(benchmark::State& state) {
  constexpr uint32_t kGranules = 1u << 26;
  BlockAllocator allocator = *BlockAllocator::Create(kGranules / 16);
  allocator.AddRegion(0, kGranules);
  uint64_t x = 1;
  const auto next_size = [&x] {
    x = x * 6364136223846793005u + 1442695040888963407u;
    return uint32_t{16} << ((x >> 33) % 14) | static_cast<uint32_t>((x >> 50) % 16);
  };
  uint32_t owners = 0;
  while (allocator.free_granules() > allocator.total_granules() / 5) {
    if (allocator.Allocate(owners + 1, next_size())) ++owners;
  }
  for (auto _ : state) {
    const uint32_t size = next_size();
    const auto owner = static_cast<uint32_t>((x >> 20) % owners + 1);
    allocator.Free(owner);
    if (!allocator.Allocate(owner, size)) (void)allocator.Allocate(owner, 16);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_AllocatorMixedSizes);

}  // namespace
}  // namespace infercache::store
