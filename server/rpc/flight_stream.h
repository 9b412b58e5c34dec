// The reactor of Cache.Flight.

#pragma once

#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/scope.h"

namespace infercache::rpc {

class FlightStream;

// All that are open, and how many there may be: a stream lasts as long as its client likes, and the
// calls that there may be are for the others too. Thread-safe; outlives them.
class FlightStreams {
 public:
  static constexpr size_t kMaxPerConnection = 16;

  // A quarter of all calls.
  explicit FlightStreams(uint32_t max_concurrent_calls)
      : most_(std::max<size_t>(1, max_concurrent_calls / 4)) {}

  // RESOURCE_EXHAUSTED: too many of `connection`, which outlives the stream, or in all.
  absl::Status Add(std::shared_ptr<FlightStream> stream, const Connection& connection)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Also of one that was not added.
  void Remove(FlightStream* stream) ABSL_LOCKS_EXCLUDED(mu_);
  // For a daemon that drains: streams would keep it waiting.
  void EndAll(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    std::shared_ptr<FlightStream> stream;
    const Connection* connection;
  };

  const size_t most_;
  absl::Mutex mu_;
  absl::flat_hash_map<FlightStream*, Entry> streams_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<const Connection*, size_t> per_connection_ ABSL_GUARDED_BY(mu_);
};

// A stream that owns what its client claims (server/store/claims.h). Its end, whatever the reason,
// passes that on at once. Deletes itself.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartFlightStream(
    const Environment& environment, grpc::CallbackServerContext* context);

}  // namespace infercache::rpc
