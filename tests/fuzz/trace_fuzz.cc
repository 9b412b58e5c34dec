// Any bytes are a trace or an error that names the file and a line; what is accepted is within the
// limits. Small limits, so that the fuzzer reaches them.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "client/cli/trace.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const infercache::cli::TraceLimits limits{.max_line_bytes = 512, .max_ids_per_request = 16};
  const auto trace = infercache::cli::Trace::Parse(text, "trace", limits);
  if (!trace.ok()) {
    const auto message = trace.status().message();
    Require(message.substr(0, 6) == "trace:");
    Require(message.size() > 6 && message[6] >= '1' && message[6] <= '9');
    return 0;
  }
  uint64_t blocks = 0;
  for (const auto& request : trace->requests()) {
    Require(request.ids.size() <= limits.max_ids_per_request);
    blocks += request.ids.size();
  }
  Require(!trace->requests().empty());
  Require(trace->blocks() == blocks);
  Require(trace->unique_blocks() <= blocks);
  return 0;
}
