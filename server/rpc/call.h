// The life of a call as the daemon counts it: admitted or not, and reported once when it has ended.

#pragma once

#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "server/rpc/rpc_server.h"

namespace infercache::rpc {

enum class Method : uint8_t {
  kGet,
  kPut,
  kMatch,
  kExists,
  kDelete,
  kTouch,
  kList,
  kGetStream,
  kPutStream,
  kFlight,
  kGetInfo,
  kGetStats,
  kCreateNamespace,
  kListNamespaces,
  kDeleteNamespace,
  kSetPolicy,
  kAdvanceClock,
  kFlush,
  kSetLogLevel,
  kDrain,
};

// "Cache/Get", indexed by Method.
std::span<const std::string_view> MethodNameTable();

// Thread-safe.
class CallMonitor {
 public:
  // `observer` may be null and outlives this.
  CallMonitor(CallObserver* observer, uint32_t max_calls)
      : observer_(observer), max_calls_(max_calls) {}

  uint64_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }

 private:
  friend class CallScope;

  CallObserver* const observer_;
  const uint64_t max_calls_;
  std::atomic<uint64_t> in_flight_{0};
};

// One call: counted from construction to destruction, which reports it. Not thread-safe.
class CallScope {
 public:
  CallScope(CallMonitor& monitor, Method method);
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // RESOURCE_EXHAUSTED if there are too many calls at once.
  const absl::Status& admission() const { return admission_; }
  void AddRequestBytes(uint64_t bytes) { record_.request_bytes += bytes; }
  void AddResponseBytes(uint64_t bytes) { record_.response_bytes += bytes; }
  // What the call ended with, as gRPC wants it.
  grpc::Status End(const absl::Status& status);

 private:
  CallMonitor& monitor_;
  const std::chrono::steady_clock::time_point started_;
  absl::Status admission_;
  CallRecord record_;
};

// The reactor of every unary method: complete it once, from any thread. Deletes itself.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(CallMonitor& monitor, Method method) : scope_(monitor, method) {}

  CallScope& scope() { return scope_; }
  void Complete(const absl::Status& status) { Finish(scope_.End(status)); }
  void OnDone() override { delete this; }

 private:
  CallScope scope_;
};

}  // namespace infercache::rpc
