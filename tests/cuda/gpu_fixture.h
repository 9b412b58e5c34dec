// For tests that work with one GPU's memory, on whichever driver this process finds: the fake one,
// unless LD_LIBRARY_PATH names a real one. What only the fake can do is asked for by fake().

#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "common/cuda/context.h"
#include "common/cuda/driver.h"
#include "common/cuda/memory.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::cuda {

// One for the process, whatever its fixtures: that is how a driver sees it. Null before the first.
inline fake_cuda::FakeDriver* the_fake_driver = nullptr;

// `Base` is a fixture.
template <class Base>
class OnGpu : public Base {
 protected:
  static constexpr uint64_t kChunk = uint64_t{2} << 20;
  static constexpr uint64_t kDeviceBytes = uint64_t{64} << 20;

  static void SetUpTestSuite() {
    if (the_fake_driver == nullptr) the_fake_driver = new fake_cuda::FakeDriver(2, kDeviceBytes);
  }
  void SetUp() override {
    Base::SetUp();
    auto driver = Driver::Load();
    ASSERT_TRUE(driver.ok()) << driver.status();
    driver_ = *std::move(driver);
    const auto devices = ListDevices(*driver_);
    ASSERT_TRUE(devices.ok()) << devices.status();
    ASSERT_FALSE(devices->empty());
    device_ = devices->front();
    is_fake_ = device_.name == "Fake GPU";
    std::printf("driver %d, %s, %s\n", driver_->version(), device_.name.c_str(),
                device_.uuid.c_str());
    the_fake_driver->ClearFaults();
  }
  void TearDown() override {
    the_fake_driver->ClearFaults();
    Base::TearDown();
  }

  bool is_fake() const { return is_fake_; }
  static fake_cuda::FakeDriver& fake() { return *the_fake_driver; }

  std::shared_ptr<const Driver> driver_;
  DeviceInfo device_;

 private:
  bool is_fake_ = false;
};
using GpuTest = OnGpu<::testing::Test>;

}  // namespace infercache::cuda
