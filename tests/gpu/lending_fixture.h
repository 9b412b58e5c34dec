// Workers that lend each other what they have in a GPU's memory, each a process of its own. Ends
// with the question whether the GPU is as it was.

#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "tests/build_kind.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/told.h"
#include "tests/helper_path.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {

// From the death of a process on, as the kernel reports it, to when all is given back. Sanitized
// builds take longer.
inline constexpr std::chrono::milliseconds kPromised{100};
inline constexpr bool kSlowBuild = kThreadSanitizer || kAddressSanitizer;

// No namespace here has a tier: lending takes none.
class GpuLending : public cuda::OnGpu<local::LocalFixture>,
                   public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    OnGpu::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Create("default");
    Serve();
    if (is_fake()) before_ = fake().UseOf(0);
  }
  void TearDown() override {
    if (!IsSkipped() && is_fake()) {
      fake().ClearFaults();
      EXPECT_TRUE(local::Eventually([&] { return fake().UseOf(0) == before_; }))
          << "not given back";
      EXPECT_EQ(fake().calls().freed_while_open.load(), 0u);
    }
    OnGpu::TearDown();
  }

  Told Start() {
    return Told::Start(HelperPath(LENDING_WORKER_BINARY), socket_path(), device_.uuid);
  }
  // One that has lent `text` under `key`.
  Told StartOwner(const std::string& kind, const std::string& text = "text",
                  const std::string& key = "key") {
    Told owner = Start();
    EXPECT_EQ(owner.Do("alloc " + kind), "ok");
    EXPECT_EQ(owner.Do("fill " + text), "ok");
    EXPECT_EQ(owner.Do("lend " + key), "lent");
    return owner;
  }
  Told StartReader() {
    Told reader = Start();
    EXPECT_EQ(reader.Do("borrow key"), "hit");
    return reader;
  }
  uint64_t Opens() { return fake().calls().ipc_opens.load() + fake().calls().imports.load(); }
  bool NothingIsLent() const {
    const local::LendingStats stats = server_->stats().lending;
    return stats.loans + stats.allocations + stats.borrowed + stats.mapped == 0;
  }

 private:
  fake_cuda::Use before_;
};

}  // namespace infercache::gpu
