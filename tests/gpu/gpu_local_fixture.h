// A store with a tier in a GPU's memory and the same-host server over it, in this process. Ends
// with the question whether everything is given back, to the store and to the GPU.

#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "server/gpu/device_tiers.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {

class GpuLocalFixture : public cuda::OnGpu<local::LocalFixture> {
 protected:
  static constexpr uint64_t kTierBytes = uint64_t{8} << 20;

  void SetUp() override {
    OnGpu::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (is_fake()) before_ = fake().UseOf(0);
  }
  void TearDown() override {
    // What is in quarantine goes with the server.
    if (server_ != nullptr) server_->Shutdown(absl::InfinitePast());
    if (is_fake()) fake().ClearFaults();  // the GPU's thread is to end
    tiers_.reset();
    if (Tier().shared() != nullptr) store::ExpectGivesEverythingBack(Tier());
    OnGpu::TearDown();
    store_.reset();
    if (!IsSkipped() && is_fake()) {
      // A client's thread may have its context for a moment longer than the client lives.
      EXPECT_TRUE(local::Eventually([this] { return fake().UseOf(0) == before_; }))
          << "not given back";
    }
  }

  // The namespace "default" with a tier, and the server.
  void ServeTier(store::NamespaceSpec spec = {}, local::LocalOptions options = {}) {
    spec.name = "default";
    if (spec.quota_bytes == 0) spec.quota_bytes = 4 * kMiB;
    Create(spec);
    AddTier();
    Serve(std::move(options));
  }
  void AddTier() {
    tiers_ = std::make_unique<DeviceTiers>(
        TierOptions{.chunk_bytes = kTierBytes / 2, .demote = demotes_});
    const TierResult added =
        tiers_->Add(*store_, {.ns = Host(), .device = device_.uuid, .bytes = kTierBytes});
    ASSERT_TRUE(added.status.ok()) << added.status;
    if (!demotes_ || !is_fake()) return;
    ASSERT_TRUE(local::Eventually([] { return fake().UseOf(0).mappings == 2; }))
        << "the GPU's thread has not begun";
  }
  std::shared_ptr<store::Namespace> Host() { return *store_->FindNamespace("default"); }
  // Null if there is none.
  store::NamespaceVerbs Tier() {
    const auto host = store_->FindNamespace("default");
    if (!host.ok()) return store::NamespaceVerbs(nullptr);
    auto tier = (*host)->FindDeviceTier(device_.uuid);
    return store::NamespaceVerbs(tier.ok() ? *std::move(tier) : nullptr);
  }
  // Of the tier, whose room is not needed any more.
  bool AllHasMovedDown() { return Tier()->BytesToDemote() == 0; }
  local::Opening OnDevice() const { return {.namespace_name = "default", .device = device_.uuid}; }

  bool demotes_ = false;  // before AddTier
  std::unique_ptr<DeviceTiers> tiers_;

 private:
  fake_cuda::Use before_;
};

}  // namespace infercache::gpu
