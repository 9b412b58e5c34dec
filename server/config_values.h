// The texts of single values, and back: addresses, file modes; sizes and durations back from what
// common/quantities.h reads. Pure functions.
// Errors are INVALID_ARGUMENT and say what was expected; the caller adds where the text stood.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/quantities.h"

namespace infercache::server {

// The shortest text that ParseSize reads as `bytes`.
std::string FormatSize(uint64_t bytes);

// The same for ParseDurationMs.
std::string FormatDurationMs(uint64_t ms);

// A plain decimal number.
absl::StatusOr<uint64_t> ParseCount(std::string_view text);
// true|false, yes|no, on|off, 1|0.
absl::StatusOr<bool> ParseBool(std::string_view text);
// Octal, 0..0777.
absl::StatusOr<uint32_t> ParseFileMode(std::string_view text);

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;

  // 127/8, ::1 or localhost.
  bool IsLoopback() const;
  // "127.0.0.1:7400", "[::1]:7400".
  std::string ToString() const;
};

// "127.0.0.1:7400", "[::1]:7400", "localhost:0". The host is a numeric address or "localhost": a
// name could mean another address at the next start.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// The candidate nearest to `name` if it is likely a typing error of it; else empty.
template <typename Range>
std::string_view NearestName(std::string_view name, const Range& candidates);
size_t EditDistance(std::string_view a, std::string_view b);

template <typename Range>
std::string_view NearestName(std::string_view name, const Range& candidates) {
  std::string_view best;
  size_t best_distance = name.size() / 3 + 2;  // further away is another word
  for (std::string_view candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace infercache::server
