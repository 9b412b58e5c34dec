// Tiers in the memory of GPUs as the daemon makes them when it starts, on the fake driver.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/e2e/daemon_process.h"
#include "tests/e2e/test_client.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::e2e {
namespace {

using fake_cuda::FakeDriver;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kDeviceBytes = uint64_t{64} << 20;
constexpr uint64_t kTierBytes = uint64_t{16} << 20;

class Devices : public ::testing::Test {
 protected:
  Devices() : gpus_(2, kDeviceBytes) {}

  DaemonProcess::Options Options(std::vector<std::string> arguments) const {
    return {.arguments = std::move(arguments),
            .environment = {{"LD_LIBRARY_PATH", FAKE_CUDA_LIBRARY_DIR},
                            {"FAKE_CUDA_STATE", gpus_.path()}}};
  }
  void ExpectServes(const DaemonProcess& daemon) {
    TestClient client(daemon.grpc_address());
    EXPECT_TRUE(client.Put("default", "key", "value").ok());
  }

  FakeDriver gpus_;
};

TEST_F(Devices, AreOffUnlessAskedFor) {
  auto daemon = DaemonProcess::Start(Options({}));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ(gpus_.calls().creates.load(), 0u);
  EXPECT_THAT((*daemon)->log(), Not(HasSubstr("device tier")));
}

TEST_F(Devices, HoldTheirMemoryAndNoContextUntilTheDaemonEnds) {
  {
    auto daemon = DaemonProcess::Start(Options(
        {"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB," + FakeDriver::Uuid(1) + "=4MiB"}));
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    EXPECT_TRUE((*daemon)->WaitForLog("device tier created"));
    EXPECT_EQ(gpus_.UseOf(0).bytes, kTierBytes);
    EXPECT_EQ(gpus_.UseOf(1).bytes, kTierBytes / 4);
    EXPECT_EQ(gpus_.UseOf(0).contexts, 0u);
    ExpectServes(**daemon);
    EXPECT_EQ((*daemon)->Stop(), 0);
  }
  EXPECT_EQ(gpus_.UseOf(0), fake_cuda::Use());
  EXPECT_EQ(gpus_.UseOf(1), fake_cuda::Use());
}

TEST_F(Devices, ComeFromTheFile) {
  auto options = Options({});
  options.config =
      "namespaces:\n  - name: default\n    quota: 16MiB\n    grpc: open\n    devices: {" +
      FakeDriver::Uuid(1) + ": 16MiB}\n";
  auto daemon = DaemonProcess::Start(std::move(options));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ(gpus_.UseOf(1).bytes, kTierBytes);
}

TEST_F(Devices, WithoutADriverTheDaemonServesAndSaysWhatIsOff) {
  auto options = Options({"--default-devices=auto=16MiB"});
  const FakeDriver none(0, 0);
  options.environment["FAKE_CUDA_STATE"] = none.path();
  auto daemon = DaemonProcess::Start(std::move(options));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_THAT((*daemon)->log(), HasSubstr("device tier is off"));
  EXPECT_THAT((*daemon)->log(), HasSubstr("no CUDA driver"));
  ExpectServes(**daemon);
}

TEST_F(Devices, AFullGpuIsWaitedForWhileTheDaemonStarts) {
  // As many failures as leave it time.
  gpus_.faults().creates_to_fail.store(5);
  auto daemon =
      DaemonProcess::Start(Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB"}));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_THAT((*daemon)->log(), HasSubstr("device tier created"));
  EXPECT_EQ(gpus_.UseOf(0).bytes, kTierBytes);
}

}  // namespace
}  // namespace infercache::e2e
