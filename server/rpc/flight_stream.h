// The reactor of Cache.Flight.

#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/scope.h"

namespace infercache::rpc {

class FlightStream;

// All that are open. Thread-safe; outlives them.
class FlightStreams {
 public:
  void Add(std::shared_ptr<FlightStream> stream) ABSL_LOCKS_EXCLUDED(mu_);
  void Remove(FlightStream* stream) ABSL_LOCKS_EXCLUDED(mu_);
  // For a daemon that drains: streams would keep it waiting.
  void EndAll(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Mutex mu_;
  absl::flat_hash_set<std::shared_ptr<FlightStream>> streams_ ABSL_GUARDED_BY(mu_);
};

// A stream that owns what its client claims (server/store/claims.h). Its end, whatever the reason,
// passes that on at once. Deletes itself.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartFlightStream(
    const Environment& environment, grpc::CallbackServerContext* context);

}  // namespace infercache::rpc
