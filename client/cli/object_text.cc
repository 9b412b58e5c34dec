#include "client/cli/object_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

std::string PartText(const PartSpec& part) {
  if (part.dtype == DataType::kBytes) return "bytes";
  return absl::StrCat(DataTypeName(part.dtype), "[", absl::StrJoin(part.shape, ","), "]");
}

}  // namespace

Json ObjectJson(uint64_t size_bytes, const ObjectInfo& info, const std::vector<PartSpec>& parts) {
  Json list = Json::array();
  for (const auto& part : parts) {
    list.push_back({{"dtype", DataTypeName(part.dtype)},
                    {"shape", part.shape},
                    {"size_bytes", part.size_bytes}});
  }
  return {{"size_bytes", size_bytes},
          {"kind", ObjectKindName(info.kind)},
          {"class_id", info.class_id},
          {"ttl_ms", info.ttl_ms},
          {"compute_cost_ms", info.compute_cost_ms},
          {"parts", std::move(list)}};
}

std::string PartsText(const std::vector<PartSpec>& parts) {
  constexpr size_t kMaxListed = 4;
  if (parts.size() <= kMaxListed) {
    return absl::StrJoin(parts, " ", [](std::string* out, const PartSpec& part) {
      absl::StrAppend(out, PartText(part));
    });
  }
  const bool alike = std::all_of(parts.begin(), parts.end(),
                                 [&](const PartSpec& part) { return part == parts.front(); });
  return alike ? absl::StrCat(parts.size(), " x ", PartText(parts.front()))
               : absl::StrCat(parts.size(), " parts");
}

}  // namespace infercache::cli
