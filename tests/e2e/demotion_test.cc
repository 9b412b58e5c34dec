// Objects that move down to host memory, on the fake driver: what the daemon does with them when it
// is told to stop.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/closer.h"
#include "infercache/client.h"
#include "infercache/device.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/http_get.h"
#include "tests/fake_cuda/fake_driver.h"
#include "tests/local/raw_client.h"
#include "tests/stuck_descriptor.h"

namespace infercache::e2e {
namespace {

using fake_cuda::FakeDriver;

constexpr uint64_t kBlock = uint64_t{512} << 10;

class Demotion : public ::testing::Test {
 protected:
  void SetUp() override {
    auto daemon = DaemonProcess::Start(
        {.arguments = {"--capacity=8MiB", "--default-devices=" + FakeDriver::Uuid(0) + "=8MiB",
                       "--device-demote=true", "--local-pin-budget-divisor=1",
                       "--drain-timeout=200ms"},
         .config = {},
         .environment = {{"LD_LIBRARY_PATH", FAKE_CUDA_LIBRARY_DIR},
                         {"FAKE_CUDA_STATE", gpus_.path()}}});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    auto client = Client::Connect({.endpoint = "unix:" + daemon_->socket_path()});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  // All that there is room for in host memory, each held as soon as it is there.
  std::vector<Object> FillHostWithViews() {
    std::vector<Object> views;
    for (char name = 'a';; ++name) {
      const std::string bytes(kBlock, name);
      const PutResult put =
          client_->Put({.key = bytes.substr(0, 1), .value = {std::as_bytes(std::span(bytes))}});
      if (!put.status.ok()) break;
      GetResult got = client_->View(bytes.substr(0, 1));
      EXPECT_TRUE(got.hit() && got.object->zero_copy()) << got.status;
      if (!got.hit()) break;
      views.push_back(*std::move(got.object));
    }
    return views;
  }
  // Objects in the GPU, until the daemon finds no room for one below.
  void FillTierUntilNothingMovesDown() {
    auto device = client_->OpenDevice(FakeDriver::Uuid(0));
    ASSERT_TRUE(device.ok()) << device.status();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    for (int i = 0; !IsRefused() && std::chrono::steady_clock::now() < deadline; ++i) {
      const std::string key = "key" + std::to_string(i);
      const ReserveItem item = {.key = key, .size_bytes = kBlock};
      auto room = (*device)->Reserve({&item, 1});
      ASSERT_TRUE(room[0].reservation.has_value()) << room[0].status;
      const PutResult put = (*device)->Commit({&*room[0].reservation, 1}, nullptr)[0];
      ASSERT_EQ(put.outcome, PutOutcome::kStored) << put.status;
    }
    ASSERT_TRUE(IsRefused());
  }
  bool IsRefused() const {
    const auto metrics = Http(daemon_->http_address(), "GET", "/metrics");
    if (!metrics.ok()) return false;
    const std::string name = "\ninfercache_demotions_refused_total{";
    const size_t line = metrics->body.find(name);
    return line != std::string::npos &&
           metrics->body.compare(metrics->body.find(' ', line), 3, " 0\n") != 0;
  }

  FakeDriver gpus_{2, uint64_t{64} << 20};
  std::unique_ptr<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
};

// Once sessions were over, whose pins no longer counted, the GPU's thread went on.
TEST_F(Demotion, AStopLeavesTheViewsOfWorkersAlone) {
  const std::vector<Object> views = FillHostWithViews();
  ASSERT_GT(views.size(), 4u);
  FillTierUntilNothingMovesDown();
  // Sessions end, and then the daemon is at something else for a while.
  StuckDescriptor stuck;
  auto stranger = local::RawClient::Connect(daemon_->socket_path());
  ASSERT_TRUE(stranger.ok() && stranger->Open().ok());
  v1::LocalRequest ping;
  ping.set_id(9);
  ping.mutable_ping();
  const std::string frame = local::RawClient::EncodeFrame(ping.SerializeAsString(), 1);
  ASSERT_TRUE(stranger->SendBytesWith(frame.substr(0, 1), {{stuck.get()}}).ok());
  // The daemon has the last one, while it waits for the rest of the frame.
  Closer closer;
  closer.Close(stuck.Take().Release());
  while (closer.pending() > 0) std::this_thread::yield();
  ASSERT_TRUE(stranger->SendBytes(frame.substr(1)).ok());
  ASSERT_TRUE(stranger->AwaitClose().ok());

  EXPECT_EQ(daemon_->Stop(), 0);
  for (size_t i = 0; i < views.size(); ++i) {
    const std::string bytes(kBlock, static_cast<char>('a' + i));
    EXPECT_TRUE(std::ranges::equal(views[i].bytes(), std::as_bytes(std::span(bytes)))) << i;
  }
}

}  // namespace
}  // namespace infercache::e2e
