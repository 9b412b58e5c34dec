// An object's description as JSON and as table cells.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/cli/output.h"
#include "infercache/types.h"

namespace infercache::cli {

// {"size_bytes", "kind", "class_id", "ttl_ms", "compute_cost_ms", "parts": [{"dtype", "shape",
// "size_bytes"}]}
Json ObjectJson(uint64_t size_bytes, const ObjectInfo& info, const std::vector<PartSpec>& parts);

// "float16[2,8,128] bytes": the parts' types and shapes; more than four as "12 x float16[8,128]" if
// they are alike, else as their number.
std::string PartsText(const std::vector<PartSpec>& parts);

}  // namespace infercache::cli
