// How many items a request may have.

#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "infercache/v1/local.pb.h"

namespace infercache::local {

// INVALID_ARGUMENT: more than kMaxItemsPerFrame.
absl::Status CheckItemCount(size_t count);
absl::Status CheckItemCounts(const v1::LocalRequest& request);

}  // namespace infercache::local
