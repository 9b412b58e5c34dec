// What all operations of one remote transport share. Outlives them.

#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "client/src/remote_call.h"
#include "client/src/remote_flight.h"
#include "client/src/transport.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

struct RemoteBackend {
  v1::Scope scope;
  uint64_t max_unary_bytes;  // of values in one request
  RemoteFlights flights = {};
  RemoteCalls calls;  // destroyed first: waits for the operations
};

// What the outcome of a call says about the daemon.
Reached ReachedBy(const absl::Status& status);

// Indices [first, second) of keys that go in one request.
using KeyRange = std::pair<size_t, size_t>;

// Cuts a batch at the daemon's limits on keys and bytes of a request, last range first: the calls
// are made in that order, so that the daemon sees the batch's first key used last, as if it had
// been one call.
std::vector<KeyRange> SplitKeys(std::span<const std::string_view> keys);

}  // namespace infercache
