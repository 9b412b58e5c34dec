// The store's verbs in the daemon, without any transport.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/store_for_bench.h"

namespace infercache::store {
namespace {

constexpr uint64_t kObjects = 100'000;
constexpr uint64_t kObjectBytes = 1024;

std::vector<std::string> Keys(uint64_t count) {
  std::vector<std::string> keys;
  for (uint64_t i = 0; i < count; ++i) keys.push_back(BlockKey(i));
  return keys;
}

void BM_LookupHit(benchmark::State& state) {
  BenchStore bench(QuotaForLiveObjects(kObjects, kObjectBytes), kObjects);
  const std::vector<std::string> keys = Keys(kObjects);
  for (const std::string& key : keys) bench.Put(key, kObjectBytes);
  uint64_t x = 1;
  for (auto _ : state) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    benchmark::DoNotOptimize(bench.ns->Lookup({keys[(x >> 33) % kObjects], bench.fingerprint}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_LookupHit);

void BM_LookupMiss(benchmark::State& state) {
  BenchStore bench(QuotaForLiveObjects(kObjects, kObjectBytes), kObjects);
  const std::vector<std::string> keys = Keys(kObjects);
  uint64_t x = 1;
  for (auto _ : state) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    benchmark::DoNotOptimize(bench.ns->Lookup({keys[(x >> 33) % kObjects], bench.fingerprint}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_LookupMiss);

// Reserve + Commit into free room, then Erase.
void BM_PutErase(benchmark::State& state) {
  BenchStore bench(QuotaForLiveObjects(kObjects, kObjectBytes), kObjects);
  const std::vector<std::string> keys = Keys(kObjects);
  uint64_t i = 0;
  for (auto _ : state) {
    const std::string& key = keys[i++ % kObjects];
    if (!bench.Put(key, kObjectBytes)) state.SkipWithError("refused");
    bench.ns->Erase({key, bench.fingerprint});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_PutErase);

// At capacity: every put evicts. Keys are made beforehand, so each is new.
void BM_PutEvicting(benchmark::State& state) {
  const auto object_bytes = static_cast<uint64_t>(state.range(0));
  constexpr uint64_t kLive = 20'000;
  BenchStore bench(QuotaForLiveObjects(kLive, object_bytes), 2 * kLive);
  const std::vector<std::string> keys = Keys(4 * kLive);
  uint64_t i = 0;
  while (bench.ns->Stats().evicted == 0) bench.Put(keys[i++ % keys.size()], object_bytes);
  for (auto _ : state) {
    if (!bench.Put(keys[i++ % keys.size()], object_bytes)) state.SkipWithError("refused");
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_PutEvicting)->Arg(1024)->Arg(16 * 1024);

void BM_LookupHitThreads(benchmark::State& state) {
  static std::unique_ptr<BenchStore> bench;
  static std::vector<std::string> keys;
  if (state.thread_index() == 0) {
    bench = std::make_unique<BenchStore>(QuotaForLiveObjects(kObjects, kObjectBytes), kObjects);
    keys = Keys(kObjects);
    for (const std::string& key : keys) bench->Put(key, kObjectBytes);
  }
  uint64_t x = static_cast<uint64_t>(state.thread_index()) * 7919 + 1;
  for (auto _ : state) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    benchmark::DoNotOptimize(bench->ns->Lookup({keys[(x >> 33) % kObjects], bench->fingerprint}));
  }
  state.SetItemsProcessed(state.iterations());
  if (state.thread_index() == 0) bench.reset();
}
BENCHMARK(BM_LookupHitThreads)->Threads(2)->UseRealTime();

}  // namespace
}  // namespace infercache::store
