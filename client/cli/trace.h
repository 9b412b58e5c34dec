// Request traces in the Mooncake format: one JSON object a line,
//
//   {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
//
// where an id stands for one block of the prompt together with everything before it: equal ids mean
// equal prefixes. A trace comes from outside, so the reader is strict: all four fields, each once,
// unsigned integers only; fields it does not know are skipped. The first line that breaks a rule
// ends it with INVALID_ARGUMENT "NAME:LINE: what is wrong". Links neither gRPC nor protobuf.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace infercache::cli {

// Inclusive, as everywhere. The defaults keep a request within one call (kMaxKeysPerCall).
struct TraceLimits {
  size_t max_line_bytes = size_t{2} << 20;
  size_t max_ids_per_request = 65'536;
};

struct TraceRequest {
  uint64_t timestamp_ms = 0;   // since the start of the trace
  uint64_t input_length = 0;   // tokens of the prompt
  uint64_t output_length = 0;  // tokens generated
  std::vector<uint64_t> ids;   // the prompt's blocks, in chain order; may be empty
};

// One line, without its end of line. The error names the field, not the line.
absl::StatusOr<TraceRequest> ParseTraceLine(std::string_view line, const TraceLimits& limits);

// Immutable; all requests in memory, in the order of the lines.
class Trace {
 public:
  // Lines end with LF or CR LF; the last one may lack it. `name` stands in errors. A trace without
  // a request is an error.
  static absl::StatusOr<Trace> Parse(std::string_view text, std::string_view name,
                                     const TraceLimits& limits = {});
  // Of a file; "-" is standard input. Errors of the system as absl::ErrnoToStatus has them.
  static absl::StatusOr<Trace> Load(const std::string& path, const TraceLimits& limits = {});

  std::span<const TraceRequest> requests() const { return requests_; }
  // Blocks of all requests, repetitions included.
  uint64_t blocks() const { return blocks_; }
  // Different ids.
  uint64_t unique_blocks() const { return unique_blocks_; }

 private:
  Trace() = default;

  std::vector<TraceRequest> requests_;
  uint64_t blocks_ = 0;
  uint64_t unique_blocks_ = 0;
};

}  // namespace infercache::cli
