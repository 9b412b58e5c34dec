// What a hit costs a reader of the shared index: hash, search, pin, unpin; no daemon, no lock.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/store_for_bench.h"
#include "common/shm/reader.h"

namespace infercache::store {
namespace {

constexpr uint64_t kObjects = 1 << 18;

class SharedIndex : public benchmark::Fixture {
 public:
  void SetUp(const benchmark::State&) override {
    bench_ = std::make_unique<BenchStore>(QuotaForLiveObjects(kObjects, 64), kObjects);
    keys_.clear();
    for (uint64_t i = 0; i < kObjects; ++i) {
      keys_.push_back(BlockKey(i));
      if (!bench_->Put(keys_.back(), 64)) std::abort();
    }
    for (uint64_t i = 0; i < kObjects; ++i) absent_.push_back(BlockKey(kObjects + i));
    auto page = ClientPage::Create(64);
    if (!page.ok()) std::abort();
    daemons_page_ = *std::move(page);
    page_ =
        std::make_unique<shm::SessionPage>(daemons_page_->memory(), daemons_page_->slot_capacity());
    page_->RaiseSlotsInUse(1);
    bench_->ns->AttachPage(daemons_page_);
    index_ = shm::IndexView(bench_->ns->index_memory());
  }
  void TearDown(const benchmark::State&) override {
    bench_->ns->DetachPage(daemons_page_);
    bench_.reset();
  }

 protected:
  shm::FindResult Find(const std::string& key) {
    const Hash128 hash = HashKey(index_.header().hash_seed, bench_->fingerprint, key);
    return shm::FindAndPin(index_, hash, key, bench_->clock.NowMs(), page_->slot(0));
  }
  void Measure(benchmark::State& state, const std::vector<std::string>& keys, uint64_t spread,
               shm::FindOutcome expected) {
    uint64_t x = 1;
    for (auto _ : state) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      const shm::FindResult found = Find(keys[(x >> 33) % spread]);
      if (found.outcome != expected) {
        state.SkipWithError("wrong answer");
        break;
      }
      if (found.outcome == shm::FindOutcome::kPinned) {
        benchmark::DoNotOptimize(found.record->offset());
        shm::Unpin(page_->slot(0));
      }
    }
    state.SetItemsProcessed(state.iterations());
  }

  std::unique_ptr<BenchStore> bench_;
  std::vector<std::string> keys_, absent_;
  std::vector<uint64_t> memory_;
  std::shared_ptr<ClientPage> daemons_page_;
  std::unique_ptr<shm::SessionPage> page_;
  shm::IndexView index_;
};

BENCHMARK_F(SharedIndex, HitHot)(benchmark::State& state) {
  Measure(state, keys_, 16, shm::FindOutcome::kPinned);
}
BENCHMARK_F(SharedIndex, HitRandom)(benchmark::State& state) {
  Measure(state, keys_, kObjects, shm::FindOutcome::kPinned);
}
BENCHMARK_F(SharedIndex, MissRandom)(benchmark::State& state) {
  Measure(state, absent_, kObjects, shm::FindOutcome::kMiss);
}

}  // namespace
}  // namespace infercache::store
