// What calls over any lane say in the same words.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace infercache {

// The results of a batch that failed as a whole.
template <typename Result>
std::vector<Result> FailedBatch(const absl::Status& status, size_t count) {
  std::vector<Result> results(count);
  for (Result& result : results) result.status = status;
  return results;
}

// An object that does not fit where it is to be copied.
inline absl::Status TooLarge(uint64_t size_bytes, uint64_t room) {
  return absl::OutOfRangeError(
      absl::StrCat("object of ", size_bytes, " bytes, destination of ", room));
}

}  // namespace infercache
