// Tiers in the memory of GPUs as the daemon makes them when it starts, on the fake driver.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>

#include "infercache/client.h"
#include "infercache/device.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/http_get.h"
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

TEST_F(Devices, OfAMachineThatBootsAreThereOnceItIsReady) {
  gpus_.faults().inits_not_ready.store(2);
  auto daemon =
      DaemonProcess::Start(Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB"}));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_TRUE((*daemon)->WaitForLog("device tier created"));
  EXPECT_EQ(gpus_.UseOf(0).bytes, kTierBytes);
}

TEST_F(Devices, TakeAContextIfObjectsAreToMoveDown) {
  auto daemon = DaemonProcess::Start(
      Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB", "--device-demote=true"}));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  // The GPU's thread makes it when it starts.
  while (gpus_.calls().contexts.load() == 0) std::this_thread::yield();
  EXPECT_EQ(gpus_.UseOf(1).contexts, 0u);
  ExpectServes(**daemon);
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_EQ(gpus_.UseOf(0), fake_cuda::Use());
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

// Not even a library of that name, which is where most machines are.
TEST_F(Devices, WithoutTheDriversLibraryTheDaemonServesAndSaysWhatIsOff) {
  if (std::system("PATH=$PATH:/sbin ldconfig -p | grep -q 'libcuda[.]so[.]1'") == 0) {
    GTEST_SKIP() << "this machine has a driver of its own";
  }
  auto options = Options({"--default-devices=auto=16MiB"});
  options.environment["LD_LIBRARY_PATH"] = "";
  auto daemon = DaemonProcess::Start(std::move(options));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_THAT((*daemon)->log(), HasSubstr("device tier is off"));
  EXPECT_THAT((*daemon)->log(), HasSubstr("libcuda.so.1: cannot open shared object file"));
  ExpectServes(**daemon);
  EXPECT_EQ((*daemon)->Stop(), 0);
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

// The host lane waited for it, and so did a stop.
TEST_F(Devices, ADriverThatHangsLeavesTheDaemonWithoutItsTiers) {
  gpus_.hangs().inits.store(1);
  auto daemon =
      DaemonProcess::Start(Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB"}));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_THAT((*daemon)->log(), HasSubstr("device tier is off"));
  EXPECT_THAT((*daemon)->log(), HasSubstr("the driver hangs"));
  ExpectServes(**daemon);
  EXPECT_EQ((*daemon)->Stop(), 0);
}

TEST_F(Devices, AStopWhileTheDriverHangsAtTheStartIsHeeded) {
  gpus_.hangs().creates.store(1);
  auto options = Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB"});
  options.until = "namespace created";
  auto daemon = DaemonProcess::Start(std::move(options));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (gpus_.calls().creates.load() == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  ASSERT_GT(gpus_.calls().creates.load(), 0u);
  const auto told = std::chrono::steady_clock::now();
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - told, std::chrono::seconds(10));
  EXPECT_THAT((*daemon)->log(), Not(HasSubstr("ready")));
}

// The client and two daemons, one after the other.
TEST_F(Devices, AClientFindsWhatAnotherStoredAndTheNextDaemon) {
  const TemporaryDirectory directory;
  const std::string socket = "--socket=" + directory.path() + "/s";
  auto options = Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB", socket});
  auto daemon = DaemonProcess::Start(options);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto connect = [&] {
    return *Client::Connect({.endpoint = "unix:" + directory.path() + "/s"});
  };
  const auto writer = connect(), reader = connect();
  auto stored = writer->OpenDevice(FakeDriver::Uuid(0));
  auto found = reader->OpenDevice(*DeviceUuid(0));
  ASSERT_TRUE(stored.ok() && found.ok()) << stored.status() << found.status();
  const ReserveItem item = {.key = "key", .size_bytes = 1000};
  const auto put = [&] {
    auto room = (*stored)->Reserve({&item, 1});
    if (!room[0].reservation.has_value()) return PutResult{.status = room[0].status};
    return (*stored)->Commit({&*room[0].reservation, 1}, nullptr)[0];
  };
  const PutResult first = put();
  ASSERT_EQ(first.outcome, PutOutcome::kStored) << first.status;
  const DeviceGetResult got = (*found)->Get("key");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(got.object->size_bytes(), 1000u);
  EXPECT_EQ(got.object->address() % 256, 0u);
  EXPECT_FALSE(reader->Get("key").hit()) << "host memory is another place";
  // Objects in host memory are found for the GPU as well.
  ASSERT_TRUE(
      writer->Put({.key = "host", .value = {std::as_bytes(std::span("bytes"))}}).status.ok());
  EXPECT_EQ((*found)->GetInto("host", got.object->address(), 3, nullptr).status.code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(
      Client::Connect({.endpoint = "127.0.0.1:1"}).value()->OpenDevice("auto").status().code(),
      absl::StatusCode::kUnimplemented)
      << "not over gRPC";

  // The reader holds a view, and with it the old daemon's memory: there is room for both.
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_FALSE((*found)->Get("key", {.deadline = absl::Milliseconds(10)}).hit());
  daemon = DaemonProcess::Start(options);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  PutResult again;
  // It tries again by itself, within a second.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (again.outcome != PutOutcome::kStored && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    again = put();
  }
  EXPECT_EQ(again.outcome, PutOutcome::kStored) << again.status;
}

// It had pointers into the client.
TEST_F(Devices, ADeviceWorksWithoutItsClientAndEndsItsSessions) {
  const TemporaryDirectory directory;
  auto daemon = DaemonProcess::Start(Options({"--default-devices=" + FakeDriver::Uuid(0) + "=16MiB",
                                              "--socket=" + directory.path() + "/s"}));
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  auto client = *Client::Connect({.endpoint = "unix:" + directory.path() + "/s"});
  ASSERT_TRUE(
      client->Put({.key = "host", .value = {std::as_bytes(std::span("bytes"))}}).status.ok());
  auto device = client->OpenDevice(FakeDriver::Uuid(0));
  ASSERT_TRUE(device.ok()) << device.status();
  client.reset();
  const ReserveItem item = {.key = "key", .size_bytes = 1000};
  auto room = (*device)->Reserve({&item, 1});
  ASSERT_TRUE(room[0].reservation.has_value()) << room[0].status;
  const DevicePointer address = room[0].reservation->address();
  const DeviceGetIntoResult into = (*device)->GetInto("host", address, 1000, nullptr);
  EXPECT_TRUE(into.hit && into.from_host) << into.status;
  EXPECT_EQ((*device)->Commit({&*room[0].reservation, 1}, nullptr)[0].outcome, PutOutcome::kStored);
  EXPECT_TRUE((*device)->Get("key").hit());
  std::byte copy[6];
  EXPECT_TRUE((*device)->GetIntoHost("host", copy).hit);
  const DeviceGetResult none = (*device)->Borrow("none");
  EXPECT_TRUE(none.status.ok() && !none.hit()) << none.status;

  device->reset();
  const auto no_session = [&] {
    const auto metrics = Http((*daemon)->http_address(), "GET", "/metrics");
    return metrics.ok() &&
           metrics->body.find("\ninfercache_local_sessions 0\n") != metrics->body.npos;
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!no_session() && std::chrono::steady_clock::now() < deadline) {
  }
  EXPECT_TRUE(no_session());
}

}  // namespace
}  // namespace infercache::e2e
