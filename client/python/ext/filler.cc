#include "client/python/ext/filler.h"

#include <algorithm>

namespace infercache::python {
namespace {

constexpr size_t kRank = 8;  // the highest that an object's part may have

bool LooksLikeFiller(const PartSpec& part) {
  return part.dtype == DataType::kUInt8 && part.size_bytes == 1 && part.shape.size() == kRank;
}

}  // namespace

PartSpec Filler() {
  return {.dtype = DataType::kUInt8, .shape = std::vector<uint64_t>(kRank, 1), .size_bytes = 1};
}

bool NeedsFiller(std::span<const PartSpec> parts) {
  while (!parts.empty() && LooksLikeFiller(parts.back())) parts = parts.first(parts.size() - 1);
  return std::all_of(parts.begin(), parts.end(),
                     [](const PartSpec& part) { return part.size_bytes == 0; });
}

size_t ShownParts(std::span<const PartSpec> stored) {
  if (stored.size() < 2 || !LooksLikeFiller(stored.back())) return stored.size();
  const std::span<const PartSpec> rest = stored.first(stored.size() - 1);
  return NeedsFiller(rest) ? rest.size() : stored.size();
}

}  // namespace infercache::python
