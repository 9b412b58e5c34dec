// Quantities as people read them, and those that only this program reads.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/quantities.h"  // ParseSize

namespace infercache::cli {

// As ParseDurationMs says; positive.
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

// A number of blocks: a count, or a share of the trace's different blocks.
struct BlockBudget {
  double percent = 0;   // if not 0, counts
  uint64_t blocks = 0;  // else this does

  // Rounded to the nearest block, at least 1.
  uint64_t Resolve(uint64_t unique_blocks) const;
};
// "18279" or "10%"; positive, at most 100 %.
absl::StatusOr<BlockBudget> ParseBlockBudget(std::string_view text);

// "0 B", "1023 B", "1.5 MiB": three digits or so, powers of 1024. For tables only.
std::string FormatSize(double bytes);
// "3.2 us", "14 ms", "2.5 s".
std::string FormatElapsed(absl::Duration duration);
// "1234", "5.68 k", "12.3 M".
std::string FormatCount(double count);
// "27.89 %".
std::string FormatRatio(double ratio);

}  // namespace infercache::cli
