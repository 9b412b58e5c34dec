// What a restart of the daemon finds in a GPU that is too small for the old tier and the new one:
// clients have the old one mapped until they notice, and for as long as they hold a view.
// On the fake driver: a program of its own, since a process sees one set of devices.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "infercache/client.h"
#include "infercache/device.h"
#include "tests/build_kind.h"
#include "tests/e2e/daemon_process.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::e2e {
namespace {

using fake_cuda::FakeDriver;
using std::chrono::steady_clock;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kDeviceBytes = uint64_t{64} << 20;
constexpr bool kSlowBuild = kThreadSanitizer || kAddressSanitizer;

class DeviceRestart : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { gpus_ = new FakeDriver(1, kDeviceBytes); }

  // A tier of three quarters of the GPU, a client of it, and an object there.
  void SetUp() override {
    options_ = {.arguments = {"--default-devices=" + FakeDriver::Uuid(0) + "=48MiB",
                              "--socket=" + directory_.path() + "/s"},
                .config = {},
                .environment = {{"LD_LIBRARY_PATH", FAKE_CUDA_LIBRARY_DIR},
                                {"FAKE_CUDA_STATE", gpus_->path()}}};
    Start();
    client_ = *Client::Connect({.endpoint = "unix:" + directory_.path() + "/s"});
    auto device = client_->OpenDevice(FakeDriver::Uuid(0));
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    ASSERT_EQ(Put().outcome, PutOutcome::kStored);
    held_.emplace(device_->Get("key"));
    ASSERT_TRUE(held_->hit()) << held_->status;
    ASSERT_GT(gpus_->UseOf(0).mappings, 0u);
  }
  void TearDown() override {
    held_.reset();
    device_.reset();
    client_.reset();
    daemon_.reset();
    EXPECT_TRUE(Eventually([&] { return gpus_->UseOf(0).bytes == 0; })) << "not given back";
  }

  void Start() {
    auto daemon = DaemonProcess::Start(options_);
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }
  void Kill() {
    daemon_->Signal(SIGKILL);
    ASSERT_TRUE(daemon_->Wait().has_value());
  }
  PutResult Put() {
    const ReserveItem item = {.key = "key", .size_bytes = 1000, .overwrite = true};
    auto room = device_->Reserve({&item, 1});
    if (!room[0].reservation.has_value()) return {.status = room[0].status};
    return device_->Commit({&*room[0].reservation, 1}, nullptr)[0];
  }
  static bool Eventually(const std::function<bool()>& condition,
                         std::chrono::milliseconds within = std::chrono::seconds(30)) {
    const auto deadline = steady_clock::now() + within;
    while (!condition()) {
      if (steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  static inline FakeDriver* gpus_ = nullptr;  // as long as the process
  const TemporaryDirectory directory_;
  DaemonProcess::Options options_;
  std::unique_ptr<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Device> device_;
  std::optional<DeviceGetResult> held_;
};

TEST_F(DeviceRestart, ClientsUnmapWithinASecondOfTheDaemonsDeath) {
  held_.reset();
  Kill();
  const auto died = steady_clock::now();
  EXPECT_TRUE(Eventually([&] { return gpus_->UseOf(0).mappings == 0; }));
  const auto took = steady_clock::now() - died;
  std::printf("unmapped after %.1f ms\n", std::chrono::duration<double, std::milli>(took).count());
  if (!kSlowBuild) {
    EXPECT_LE(took, std::chrono::seconds(1));
  }
  EXPECT_EQ(gpus_->UseOf(0).bytes, 0u) << "the dead daemon's memory is free";
}

TEST_F(DeviceRestart, TheNextDaemonHasItsTierAtOnceWhereNobodyHoldsAView) {
  held_.reset();
  Kill();
  const auto died = steady_clock::now();
  Start();
  const auto took = steady_clock::now() - died;
  EXPECT_THAT(daemon_->log(), HasSubstr("device tier created"));
  EXPECT_THAT(daemon_->log(), Not(HasSubstr("device tier is off")));
  if (!kSlowBuild) {
    EXPECT_LT(took, std::chrono::seconds(5)) << "it waited for the old memory";
  }
  // The same client, by itself.
  EXPECT_TRUE(Eventually([&] { return Put().outcome == PutOutcome::kStored; }));
  EXPECT_TRUE(device_->Get("key").hit());
}

// After 10 s, since the view may go at any moment.
TEST_F(DeviceRestart, TheNextDaemonsTierIsOffWhereAViewIsHeldInAFullGpu) {
  Kill();
  const auto died = steady_clock::now();
  Start();
  const auto took = steady_clock::now() - died;
  EXPECT_GE(took, std::chrono::seconds(9)) << "it did not wait for the view to go";
  if (!kSlowBuild) {
    EXPECT_LT(took, std::chrono::seconds(20));
  }
  EXPECT_THAT(daemon_->log(), HasSubstr("device tier is off"));
  EXPECT_THAT(daemon_->log(), HasSubstr("CUDA_ERROR_OUT_OF_MEMORY"));
  // What the old client is told, and a new one; host memory serves both.
  PutResult put;
  EXPECT_TRUE(Eventually([&] {
    put = Put();
    return put.status.code() == absl::StatusCode::kUnimplemented;
  })) << put.status;
  EXPECT_THAT(std::string(put.status.message()), HasSubstr("CUDA_ERROR_OUT_OF_MEMORY"));
  const auto other = *Client::Connect({.endpoint = "unix:" + directory_.path() + "/s"});
  const auto device = other->OpenDevice(FakeDriver::Uuid(0));
  ASSERT_TRUE(device.ok()) << device.status();
  const DeviceGetResult got = (*device)->Get("key");
  EXPECT_EQ(got.status.code(), absl::StatusCode::kUnimplemented) << got.status;
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("CUDA_ERROR_OUT_OF_MEMORY"));
  // The lane to host memory may still be away.
  EXPECT_TRUE(Eventually([&] {
    return client_->Put({.key = "host", .value = {std::as_bytes(std::span("bytes"))}}).status.ok();
  }));
  // The view is what it was.
  std::string bytes(1000, 'x');
  EXPECT_TRUE(held_->object->CopyToHost(0, std::as_writable_bytes(std::span(bytes))).ok());
  EXPECT_EQ(gpus_->UseOf(0).bytes, uint64_t{48} << 20) << "of the old daemon alone";
}

TEST_F(DeviceRestart, AViewThatGoesWhileTheNextDaemonWaitsMakesRoomForItsTier) {
  Kill();
  const uint64_t failed = gpus_->calls().creates.load();
  std::thread waits([&] {
    // It has asked twice, in vain.
    EXPECT_TRUE(Eventually([&] { return gpus_->calls().creates.load() >= failed + 2; }));
    held_.reset();
  });
  auto daemon = DaemonProcess::Start(options_);
  waits.join();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  daemon_ = *std::move(daemon);
  EXPECT_THAT(daemon_->log(), HasSubstr("device tier created"));
  EXPECT_TRUE(Eventually([&] { return Put().outcome == PutOutcome::kStored; }));
}

}  // namespace
}  // namespace infercache::e2e
