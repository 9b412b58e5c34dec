// A store, a GPU's thread that moves objects of its tiers down, and a clock and an observer that
// tell whether they are used once they may be gone. Ends with the question whether all is given
// back.

#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/gpu/device_tiers.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/device_buffer.h"
#include "tests/local/local_fixture.h"
#include "tests/or_die.h"

namespace infercache::gpu {

// What a store leans on, and whether that is so when it may be gone.
class Support {
 public:
  void Goes() { gone_ = true; }
  uint64_t used_since() const { return used_since_; }

 protected:
  void IsUsed() const { used_since_ += gone_ ? 1 : 0; }

 private:
  std::atomic<bool> gone_{false};
  mutable std::atomic<uint64_t> used_since_{0};
};

class SupportingClock final : public Clock, public Support {
 public:
  uint64_t NowMs() const override {
    IsUsed();
    return clock_.NowMs();
  }

 private:
  MonotonicClock clock_;
};

// The first letters of the namespaces from which something was evicted, in order.
class Departed final : public store::Observer, public Support {
 public:
  void OnEvent(const store::Event& event) override {
    IsUsed();
    MutexLock lock(&mu_);
    if (event.kind == store::EventKind::kEvicted) order_ += event.namespace_name[0];
  }
  std::string order() const {
    MutexLock lock(&mu_);
    return order_;
  }

 private:
  mutable Mutex mu_;
  std::string order_ ABSL_GUARDED_BY(mu_);
};

class DemoterTest : public cuda::GpuTest {
 protected:
  static constexpr uint64_t kTierBytes = uint64_t{8} << 20;
  static constexpr uint64_t kBlock = uint64_t{256} << 10;

  // Bytes that differ from object to object.
  static std::string BytesOf(int i) {
    std::string bytes(kBlock, static_cast<char>('a' + i % 26));
    bytes.replace(0, 8, std::to_string(10'000'000 + i));
    return bytes;
  }
  static std::string KeyOf(int i) { return "key" + std::to_string(i); }

  void SetUp() override {
    cuda::GpuTest::SetUp();
    if (HasFatalFailure()) return;
    if (is_fake()) before_ = fake().UseOf(0);
    store_.emplace(store::StoreOptions{.capacity_bytes = 64 << 20}, clock_, &departed_);
    ns_ = *store_->CreateNamespace({.name = "kv", .quota_bytes = 32 << 20});
  }
  void TearDown() override {
    if (is_fake()) fake().ClearFaults();
    EndAll();
    // A thread that was left behind ends when its GPU goes on.
    if (is_fake()) {
      EXPECT_TRUE(local::Eventually([&] { return fake().UseOf(0) == before_; }))
          << "not given back";
    }
    cuda::GpuTest::TearDown();
  }

  void EndAll() {
    tiers_.reset();
    buffer_.reset();
    chunks_.clear();
    ns_.reset();
    store_.reset();
  }

  void AddTier(Demoter::Options options = {}) {
    AddDemotion(std::move(options));
    MapChunks();
  }
  void AddDemotion(Demoter::Options options = {}) {
    tiers_.emplace(TierOptions{.chunk_bytes = kTierBytes / 2, .demote = true, .demotion = options});
    const TierResult added =
        tiers_->Add(*store_, {.ns = ns_, .device = device_.uuid, .bytes = kTierBytes});
    ASSERT_TRUE(added.status.ok()) << added.status;
  }
  // As a worker does it.
  void MapChunks() {
    buffer_.emplace(driver_, device_.ordinal);
    for (uint32_t i = 0; i < Tier()->chunk_count(); ++i) {
      const UniqueFd fd = OrDie(Tier()->OpenChunk(i, true));
      const auto chunk = OrDie(cuda::Allocation::Import(driver_, fd, kTierBytes / 2));
      chunks_.push_back(
          OrDie(cuda::Mapping::Map(chunk, device_.ordinal, cuda::Mapping::Access::kReadWrite)));
    }
  }
  store::NamespaceVerbs Tier() { return store::NamespaceVerbs(*ns_->FindDeviceTier(device_.uuid)); }
  // As a worker does it. Only while streams move.
  void Put(int i) {
    Put(i, [&](cuda::DevicePointer to) { buffer_->WriteTo(to, BytesOf(i)); });
  }
  template <class F>
  void Put(int i, F write) {
    auto lease = Tier().TryReserve(KeyOf(i), kBlock);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    const store::Place place = (*lease)->place();
    write(chunks_[place.chunk].address() + place.offset);
    ASSERT_TRUE(Tier()->Commit(**std::move(lease)).ok());
  }
  // Enough for what comes next to find room, as in a namespace whose objects do not move down.
  bool TheFullReserveIsFree() {
    const store::NamespaceStats stats = Tier()->Stats();
    return stats.quota_bytes - stats.used_bytes >= kTierBytes / 8;
  }
  static void ReserveAndCommit(const store::NamespaceVerbs& tier, int i) {
    auto lease = tier.TryReserve(KeyOf(i), kBlock);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    ASSERT_TRUE(tier->Commit(**std::move(lease)).ok());
  }
  void PutWithoutWriting(int i) {
    Put(i, [](cuda::DevicePointer) {});
  }

  SupportingClock clock_;
  Departed departed_;
  std::optional<store::Store> store_;
  std::shared_ptr<store::Namespace> ns_;
  std::optional<DeviceTiers> tiers_;
  std::optional<DeviceBuffer> buffer_;
  std::vector<cuda::Mapping> chunks_;
  fake_cuda::Use before_;
};

}  // namespace infercache::gpu
