// Sizes and durations as people write them: in the daemon's configuration and on both command
// lines. Pure functions. Errors are INVALID_ARGUMENT and say what was expected.

#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace infercache {

// "4096", "512MiB", "1.5Gi", "10GB": Ki Mi Gi Ti Pi are powers of 1024, K M G T P of 1000, with or
// without B; the case does not matter. Must be a whole number of bytes below 2^63.
absl::StatusOr<uint64_t> ParseSize(std::string_view text);

// "100ms", "1.5s", "5m", "2h", "7d", "1h30m", as milliseconds; must be a whole number of them below
// 2^63. A bare number is an error, except 0.
absl::StatusOr<uint64_t> ParseDurationMs(std::string_view text);

}  // namespace infercache
