// A second descriptor of what another one is of.

#pragma once

#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace infercache {

// Not inherited by programs that are started. RESOURCE_EXHAUSTED: out of descriptors.
absl::StatusOr<UniqueFd> Duplicate(int fd);

}  // namespace infercache
