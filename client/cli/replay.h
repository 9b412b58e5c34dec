// Drives a daemon with the requests of a trace, as an inference worker would: per request one Match
// of its chain, Get of the cached prefix, Put of every block after it. Blocks carry bytes that
// follow from their id, and every byte read is checked.

#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "client/cli/latency.h"
#include "client/cli/trace.h"
#include "infercache/client.h"

namespace infercache::cli {

struct ReplayOptions {
  uint64_t block_bytes = 0;  // > 0
  int clients = 1;           // > 0: threads with a client each
  // Called with a request's time in the trace before its first call, by several threads at once; a
  // failure ends the replay. Empty = the daemon's time is its own.
  std::function<absl::Status(uint64_t timestamp_ms)> tell_time;
};

struct ReplayResult {
  Lane lane = Lane::kRemote;    // that the clients took
  uint64_t requests = 0;        // completed
  uint64_t blocks = 0;          // of those requests, repetitions included
  uint64_t prefix_blocks = 0;   // found by Match before the first missing one
  uint64_t present_blocks = 0;  // found by Match anywhere
  uint64_t lost_blocks = 0;     // found by Match, but not read: evicted since, or refused
  uint64_t stored_blocks = 0;
  uint64_t existing_blocks = 0;           // put, but there already
  uint64_t refused_blocks = 0;            // put, but the namespace was full of objects in use
  uint64_t bytes_get = 0, bytes_put = 0;  // bytes_put: stored ones
  uint64_t wrong_blocks = 0, wrong_bytes = 0;
  double seconds = 0;
  LatencySamples match, get, put;  // per call; a call carries at most 16 MiB of blocks

  double PrefixHitRatio() const;
  double ObjectHitRatio() const;
};

// Requests are taken in the order of the trace, by whichever client is free; timestamps are not
// waited for, but may be told. `watch(requests_done)` is called about ten times a second; if it
// returns false, no new request is started. Errors: of Connect, and the first failure of a call
// other than RESOURCE_EXHAUSTED, which makes a get a lost block and a put a refused one.
absl::StatusOr<ReplayResult> Replay(const Trace& trace, const ReplayOptions& options,
                                    const ClientOptions& client_options,
                                    const std::function<bool(uint64_t)>& watch);

}  // namespace infercache::cli
