// A daemon in this process, whose clock the test moves, and a way to reach it. Each fixture is one
// line in the list that the conformance suite runs over.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "infercache/client.h"
#include "server/local/local_server.h"
#include "server/rpc/rpc_server.h"
#include "server/store/store.h"
#include "tests/conformance/device_client.h"

namespace infercache {

inline constexpr char kNamespace[] = "default";
inline constexpr char kOtherNamespace[] = "other";

// Store, server and clock.
class InProcessDaemon {
 public:
  // Serves gRPC on one address as RpcOptions takes it, or the same-host lane on a new socket.
  static std::unique_ptr<InProcessDaemon> Grpc(std::string listen);
  static std::unique_ptr<InProcessDaemon> Local();
  // The same-host lane, and in the first GPU of this process a tier of each namespace, as large as
  // it. What is counted is then the tier's.
  static std::unique_ptr<InProcessDaemon> Gpu();

  // What a client calls it.
  const std::string& endpoint() const { return endpoint_; }
  ManualClock& clock() { return clock_; }
  store::NamespaceStats Stats() const;

 private:
  InProcessDaemon();
  void ServeLocally(local::LocalOptions options);

  ManualClock clock_;
  std::string device_;  // the GPU's UUID; empty = host memory
  store::Store store_;
  std::string endpoint_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::unique_ptr<local::LocalServer> local_server_;
};

// A path that nothing else of this process uses.
std::string NewSocketPath();

class TcpFixture {
 public:
  using Client = infercache::Client;
  static constexpr char kName[] = "Tcp";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const { return {.endpoint = daemon_->endpoint()}; }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_ = InProcessDaemon::Grpc("127.0.0.1:0");
};

class LocalFixture {
 public:
  using Client = infercache::Client;
  static constexpr char kName[] = "Local";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const {
    return {.endpoint = daemon_->endpoint(),
            .clock = [&clock = daemon_->clock()] { return absl::FromUnixMillis(clock.NowMs()); }};
  }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_ = InProcessDaemon::Local();
};

class GpuFixture {
 public:
  using Client = DeviceClient;
  static constexpr char kName[] = "Gpu";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const {
    return {.endpoint = daemon_->endpoint(),
            .clock = [&clock = daemon_->clock()] { return absl::FromUnixMillis(clock.NowMs()); }};
  }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_ = InProcessDaemon::Gpu();
};

// The suite runs over each of these.
using Transports = ::testing::Types<TcpFixture, LocalFixture>;
using AllTransports = ::testing::Types<TcpFixture, LocalFixture, GpuFixture>;

struct TransportName {
  template <typename T>
  static std::string GetName(int) {
    return T::kName;
  }
};

}  // namespace infercache
