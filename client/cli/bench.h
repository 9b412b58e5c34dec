// A closed-loop load generator: every client has one call under way at any time.

#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/latency.h"
#include "infercache/client.h"

namespace infercache::cli {

enum class BenchOp {
  kGet,    // one key a call, all present at the start
  kPut,    // one key a call, overwriting
  kMatch,  // one chain of all keys a call, all present at the start
};

struct BenchOptions {
  BenchOp op = BenchOp::kGet;
  uint64_t size_bytes = 4096;  // of a value, > 0
  double seconds = 5;          // > 0
  int clients = 1;             // > 0: threads with a client each
  uint64_t keys = 0;           // 0 = as DefaultKeys says
};

// 4,096 for match; for get and put as many as make 64 MiB, 16 to 4,096.
uint64_t DefaultKeys(BenchOp op, uint64_t size_bytes);

struct BenchResult {
  uint64_t ops = 0;     // answered without an error
  uint64_t bytes = 0;   // of values moved by them
  uint64_t errors = 0;  // calls that failed, or a put that was refused
  uint64_t misses = 0;  // keys that had been put and were gone; those calls count as ops
  absl::Status first_error;
  double seconds = 0;      // of the measured loop
  LatencySamples latency;  // of ops
};

// Stores what is needed, measures, and deletes its keys again, whatever happened. Errors: of
// Connect, and of storing or deleting; what fails in the loop is counted. `watch(seconds_done)` is
// called about ten times a second; if it returns false the loop ends early.
absl::StatusOr<BenchResult> Bench(const BenchOptions& options, const ClientOptions& client_options,
                                  const std::function<bool(double)>& watch);

}  // namespace infercache::cli
