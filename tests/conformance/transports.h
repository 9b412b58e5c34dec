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
#include "server/rpc/rpc_server.h"
#include "server/store/store.h"

namespace infercache {

inline constexpr char kNamespace[] = "default";
inline constexpr char kOtherNamespace[] = "other";

// Store, gRPC server and clock. `listen` is one address as RpcOptions takes it.
class InProcessDaemon {
 public:
  explicit InProcessDaemon(std::string listen);

  // What a client calls it.
  const std::string& endpoint() const { return endpoint_; }
  ManualClock& clock() { return clock_; }
  store::NamespaceStats Stats() const;

 private:
  ManualClock clock_;
  store::Store store_;
  std::string endpoint_;
  std::unique_ptr<rpc::RpcServer> server_;
};

class TcpTransport {
 public:
  static constexpr char kName[] = "Tcp";
  InProcessDaemon& daemon() { return daemon_; }
  ClientOptions options() const { return {.endpoint = daemon_.endpoint()}; }

 private:
  InProcessDaemon daemon_{"127.0.0.1:0"};
};

class UnixTransport {
 public:
  static constexpr char kName[] = "Unix";
  InProcessDaemon& daemon() { return daemon_; }
  ClientOptions options() const { return {.endpoint = daemon_.endpoint()}; }

 private:
  static std::string SocketAddress();
  InProcessDaemon daemon_{SocketAddress()};
};

// The suite runs over each of these.
using Transports = ::testing::Types<TcpTransport, UnixTransport>;

struct TransportName {
  template <typename T>
  static std::string GetName(int) {
    return T::kName;
  }
};

}  // namespace infercache
