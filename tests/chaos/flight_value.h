// What the workers of the single-flight test make of a key, and how long they wait for each other.

#pragma once

#include <string>

#include "absl/time/time.h"

namespace infercache::chaos {

// A wait that ends by it counts as lost.
inline constexpr absl::Duration kFlightDeadline = absl::Seconds(60);

inline std::string FlightValue(const std::string& key) {
  std::string value;
  while (value.size() < 2000) value += key + " ";
  return value;
}

}  // namespace infercache::chaos
