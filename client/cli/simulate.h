// What an eviction policy of the daemon makes of a trace: the daemon's own store, in this process,
// on a clock that follows the trace's timestamps. Per request the longest prefix that is there is a
// hit; then what is there is used, from the last to the first, and what is missing is stored behind
// it.
//
// Links neither gRPC nor Protobuf.

#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/trace.h"

namespace infercache::cli {

struct SimulationOptions {
  std::string policy;
  uint64_t capacity_blocks = 0;  // > 0; live blocks, at most store::kMaxObjectsPerNamespace
  uint32_t shards = 64;          // a power of two
  uint64_t block_bytes = 0;      // that the policy takes a block to have; nothing of it is stored
};

struct SimulationResult {
  uint64_t blocks = 0;          // of all requests, repetitions included
  uint64_t prefix_blocks = 0;   // present before the first missing one of their request
  uint64_t present_blocks = 0;  // present anywhere in it
  // What the policy keeps in memory, of objects that are gone as well, for each that is there.
  double bytes_per_object = 0;
};

// INVALID_ARGUMENT: unknown policy, or a limit of the store's. RESOURCE_EXHAUSTED: memory.
absl::StatusOr<SimulationResult> Simulate(const Trace& trace, const SimulationOptions& options);

// Nanoseconds that the policy takes for the use of a block, a victim included where one is needed:
// the policy alone on the trace's uses, without index, locks and log. The median of at least
// `passes` passes over the trace, and of as many as make `least_operations` or take 0.3 s: a policy
// takes longer to begin than a tiny trace does.
// INVALID_ARGUMENT: unknown policy.
absl::StatusOr<double> MeasurePolicy(const Trace& trace, const SimulationOptions& options,
                                     int passes, uint64_t least_operations);

}  // namespace infercache::cli
