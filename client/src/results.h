// What calls over any lane say in the same words.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
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

// The same where the call decides what its result is: a batch, one for all keys, or a status.
template <typename Result>
Result Failed(const absl::Status& status, size_t count) {
  if constexpr (std::is_same_v<Result, absl::Status>) {
    return status;
  } else if constexpr (requires { typename Result::value_type; }) {
    return FailedBatch<typename Result::value_type>(status, count);
  } else {
    Result result;
    result.status = status;
    return result;
  }
}

// An object that does not fit where it is to be copied.
inline absl::Status TooLarge(uint64_t size_bytes, uint64_t room) {
  return absl::OutOfRangeError(
      absl::StrCat("object of ", size_bytes, " bytes, destination of ", room));
}

}  // namespace infercache
