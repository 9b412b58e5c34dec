// The eviction policies alone, on names of blocks: without index, locks and log. Requests are
// chains of 32 blocks, told from the last to the first.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string_view>

#include "server/store/eviction/block_cache.h"

namespace infercache::store {
namespace {

constexpr uint32_t kResident = 1 << 16;
constexpr uint32_t kBlocks = 8 * kResident;  // more than any policy has ghosts
constexpr uint32_t kChain = 32;
constexpr uint64_t kMsPerRequest = 10;

// Uses one block after the other of endless requests; `first_of(n)` is where the nth one's chain
// begins.
template <class FirstOf>
class Requests {
 public:
  Requests(std::string_view policy, FirstOf first_of)
      : cache_(policy, kBlocks, kResident), first_of_(first_of) {}

  void UseOne() {
    if (left_ == 0) {
      left_ = kChain;
      first_ = first_of_(use_.request++);
      use_.now_ms += kMsPerRequest;
    }
    use_.ends_request = left_ == kChain;
    cache_.Touch(first_ + --left_, use_);
  }

 private:
  BlockCache cache_;
  const FirstOf first_of_;
  Use use_{.now_ms = 1'000'000, .request = 1};
  uint32_t first_ = 0, left_ = 0;
};

template <class FirstOf>
void Measure(benchmark::State& state, std::string_view policy, uint32_t uses_before,
             FirstOf first_of) {
  Requests requests(policy, first_of);
  for (uint32_t i = 0; i < uses_before; ++i) requests.UseOne();
  for (auto _ : state) requests.UseOne();
  state.SetItemsProcessed(state.iterations());
}

uint32_t FirstOfChain(uint64_t chain) {
  return static_cast<uint32_t>(chain % (kBlocks / kChain)) * kChain + 1;
}

// All is there.
void BM_PolicyHit(benchmark::State& state, std::string_view policy) {
  Measure(state, policy, kResident,
          [](uint64_t request) { return FirstOfChain(request % (kResident / kChain)); });
}

// Nothing is there any more, nor a ghost of it: each use evicts.
void BM_PolicyMiss(benchmark::State& state, std::string_view policy) {
  Measure(state, policy, kBlocks, FirstOfChain);
}

// Half of the requests are for an eighth of the chains.
void BM_PolicyMixed(benchmark::State& state, std::string_view policy) {
  Measure(state, policy, kBlocks, [](uint64_t request) {
    const uint64_t random = request * 0x9e3779b97f4a7c15u >> 32;
    return FirstOfChain(random % 2 == 0 ? random / 2 % (kBlocks / kChain / 8) : random / 2);
  });
}

#define INFERCACHE_BENCH_POLICY(name)            \
  BENCHMARK_CAPTURE(BM_PolicyHit, name, #name);  \
  BENCHMARK_CAPTURE(BM_PolicyMiss, name, #name); \
  BENCHMARK_CAPTURE(BM_PolicyMixed, name, #name)

INFERCACHE_BENCH_POLICY(auto);
INFERCACHE_BENCH_POLICY(lru);
INFERCACHE_BENCH_POLICY(fifo);
INFERCACHE_BENCH_POLICY(lfu);
INFERCACHE_BENCH_POLICY(s3fifo);
INFERCACHE_BENCH_POLICY(arc);

}  // namespace
}  // namespace infercache::store
