// A daemon in this process, whose clock the test moves, and a way to reach it. Each fixture is one
// line in the list that the conformance suite runs over.

#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "infercache/client.h"
#include "server/local/local_server.h"
#include "server/rpc/rpc_server.h"
#include "server/store/events.h"
#include "server/store/store.h"
#include "tests/conformance/device_client.h"

namespace infercache {

inline constexpr char kNamespace[] = "default";
inline constexpr char kOtherNamespace[] = "other";
// Of so few objects that others have to go.
inline constexpr char kSmallNamespace[] = "small";
inline constexpr int kSmallObjects = 1000;
// Of the first of them. Every test has a daemon of its own, whose memory is populated before it
// begins.
inline constexpr uint64_t kQuotaBytes = uint64_t{32} << 20;
inline constexpr uint64_t kRoomyQuotaBytes = uint64_t{128} << 20;

// Keeps what was evicted.
class EvictionRecord final : public store::Observer {
 public:
  void OnEvent(const store::Event& event) override ABSL_LOCKS_EXCLUDED(mu_);
  // The sizes of the objects, which tell them apart, in the order in which they went.
  std::vector<uint64_t> Sizes() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  mutable Mutex mu_;
  std::map<uint64_t, uint64_t> sizes_ ABSL_GUARDED_BY(mu_);  // by the events' numbers
};

// Store, server and clock.
class InProcessDaemon {
 public:
  // Serves gRPC on one address as RpcOptions takes it, or the same-host lane on a new socket.
  // Unless told otherwise, an answer of 40 MiB is within gRPC's bounds, a batch of 96 MiB is not.
  static std::unique_ptr<InProcessDaemon> Grpc(std::string listen, uint64_t quota_bytes,
                                               uint64_t max_pinned_bytes = uint64_t{64} << 20);
  static std::unique_ptr<InProcessDaemon> Local(uint64_t quota_bytes);
  // The same-host lane, and in the first GPU of this process a tier of each namespace, as large as
  // it. What is counted is then the tier's.
  static std::unique_ptr<InProcessDaemon> Gpu(uint64_t quota_bytes);

  // What a client calls it.
  const std::string& endpoint() const { return endpoint_; }
  ManualClock& clock() { return clock_; }
  store::NamespaceStats Stats(std::string_view ns = kNamespace) const;
  // Of gRPC's answers on their way.
  uint64_t PinnedResponseBytes() const;
  // Of the small namespace.
  std::vector<uint64_t> EvictedSizes() const { return evicted_.Sizes(); }

 private:
  explicit InProcessDaemon(uint64_t quota_bytes);
  void ServeLocally(local::LocalOptions options);

  ManualClock clock_;
  std::string device_;  // the GPU's UUID; empty = host memory
  EvictionRecord evicted_;
  store::Store store_;
  std::string endpoint_;
  std::unique_ptr<rpc::RpcServer> server_;
  std::unique_ptr<local::LocalServer> local_server_;
};

// A path that nothing else of this process uses.
std::string NewSocketPath();

class TcpFixture {
 public:
  explicit TcpFixture(uint64_t quota_bytes = kQuotaBytes)
      : daemon_(InProcessDaemon::Grpc("127.0.0.1:0", quota_bytes)) {}

  using Client = infercache::Client;
  static constexpr char kName[] = "Tcp";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const { return {.endpoint = daemon_->endpoint()}; }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_;
};

// Whose answers carry so little at once that most objects need a stream each.
class StreamsFixture {
 public:
  using Client = infercache::Client;
  static constexpr char kName[] = "Streams";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const {
    return {.endpoint = daemon_->endpoint(), .max_unary_bytes = 1'000};
  }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_ =
      InProcessDaemon::Grpc("127.0.0.1:0", kQuotaBytes, /*max_pinned_bytes=*/64 << 10);
};

class LocalFixture {
 public:
  explicit LocalFixture(uint64_t quota_bytes = kQuotaBytes)
      : daemon_(InProcessDaemon::Local(quota_bytes)) {}

  using Client = infercache::Client;
  static constexpr char kName[] = "Local";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const {
    return {.endpoint = daemon_->endpoint(),
            .clock = [&clock = daemon_->clock()] { return absl::FromUnixMillis(clock.NowMs()); }};
  }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_;
};

class GpuFixture {
 public:
  explicit GpuFixture(uint64_t quota_bytes = kQuotaBytes)
      : daemon_(InProcessDaemon::Gpu(quota_bytes)) {}

  using Client = DeviceClient;
  static constexpr char kName[] = "Gpu";
  InProcessDaemon& daemon() { return *daemon_; }
  ClientOptions options() const {
    return {.endpoint = daemon_->endpoint(),
            .clock = [&clock = daemon_->clock()] { return absl::FromUnixMillis(clock.NowMs()); }};
  }

 private:
  const std::unique_ptr<InProcessDaemon> daemon_;
};

// For the largest values.
template <typename Fixture>
class Roomy : public Fixture {
 public:
  Roomy() : Fixture(kRoomyQuotaBytes) {}
};

// The suite runs over each of these.
using Transports = ::testing::Types<TcpFixture, LocalFixture>;
using AllTransports = ::testing::Types<TcpFixture, LocalFixture, GpuFixture>;
using RoomyTransports = ::testing::Types<Roomy<TcpFixture>, Roomy<LocalFixture>>;
using AllRoomyTransports =
    ::testing::Types<Roomy<TcpFixture>, Roomy<LocalFixture>, Roomy<GpuFixture>>;

struct TransportName {
  template <typename T>
  static std::string GetName(int) {
    return T::kName;
  }
};

}  // namespace infercache
