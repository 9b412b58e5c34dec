// What a worker tells the demo about one turn, as a line of JSON on its standard output.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace infercache::demo {

// Times are wall clock.
struct TurnReport {
  size_t turn = 0;  // from 1
  size_t prompt_tokens = 0;
  size_t reused_tokens = 0;
  double fetch_seconds = 0;    // asking the cache and copying its blocks
  double compute_seconds = 0;  // the rest of the prompt, up to the first token's logits
  double store_seconds = 0;    // not part of the prefill: a worker can store after answering
  size_t stored_blocks = 0;
  size_t existing_blocks = 0;  // were in the cache when they were put
  std::string cache_error;     // why the cache did not help, if it failed; a miss is no failure
  std::string answer;
  std::vector<uint32_t> logit_bits;  // of the prompt's last position, as the bits of the floats

  double prefill_seconds() const { return fetch_seconds + compute_seconds; }
};

// One line without its end.
std::string ToJson(const TurnReport& report);
// INVALID_ARGUMENT for anything that ToJson() does not write.
absl::StatusOr<TurnReport> TurnReportFromJson(std::string_view line);

}  // namespace infercache::demo
