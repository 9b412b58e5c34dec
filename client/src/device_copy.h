// Copies that are waited for.

#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "common/cuda/context.h"

namespace infercache {

// From a GPU to host memory. Waited for whatever the deadline: the caller's memory must not be
// written later. Other streams are not waited for.
absl::Status CopyToHost(const cuda::PrimaryContext& context, cuda::DevicePointer from,
                        std::span<std::byte> to);

}  // namespace infercache
