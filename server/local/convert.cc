#include "server/local/convert.h"

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache::local {

FingerprintEntries ToFingerprintEntries(
    const google::protobuf::RepeatedPtrField<v1::FingerprintEntry>& entries) {
  FingerprintEntries result;
  result.reserve(entries.size());
  for (const auto& entry : entries) result.emplace_back(entry.key(), entry.value());
  return result;
}

absl::StatusOr<ObjectInfo> ToObjectInfo(const v1::ObjectInfo& info) {
  if (info.kind() < 0 || info.kind() > kLastObjectKind) {
    return absl::InvalidArgumentError(
        absl::StrCat("info.kind: unknown value ", static_cast<int>(info.kind())));
  }
  if (info.class_id() > kMaxClassId) {
    return absl::InvalidArgumentError(
        absl::StrCat("info.class_id: ", info.class_id(), "; the limit is ", kMaxClassId));
  }
  return ObjectInfo{.kind = static_cast<ObjectKind>(info.kind()),
                    .compute_cost_ms = info.compute_cost_ms(),
                    .class_id = static_cast<uint8_t>(info.class_id()),
                    .ttl_ms = info.ttl_ms(),
                    .parent_key = info.parent_key()};
}

absl::StatusOr<std::vector<PartSpec>> ToParts(
    const google::protobuf::RepeatedPtrField<v1::PartSpec>& parts) {
  if (static_cast<size_t>(parts.size()) > kMaxParts) {
    return absl::InvalidArgumentError(
        absl::StrCat("parts: ", parts.size(), " of them; the limit is ", kMaxParts));
  }
  std::vector<PartSpec> result;
  result.reserve(parts.size());
  for (const v1::PartSpec& part : parts) {
    if (part.dtype() < 0 || part.dtype() > kLastDataType) {
      return absl::InvalidArgumentError(absl::StrCat(
          "parts[", result.size(), "].dtype: unknown value ", static_cast<int>(part.dtype())));
    }
    result.push_back({.dtype = static_cast<DataType>(part.dtype()),
                      .shape = {part.shape().begin(), part.shape().end()},
                      .size_bytes = part.size_bytes()});
  }
  return result;
}

void Describe(const ObjectInfo& info, uint64_t size_bytes, std::span<const PartSpec> parts,
              v1::ObjectDescription* out) {
  v1::ObjectInfo& message = *out->mutable_info();
  message.set_kind(static_cast<v1::ObjectKind>(info.kind));
  message.set_compute_cost_ms(info.compute_cost_ms);
  message.set_class_id(info.class_id);
  message.set_ttl_ms(info.ttl_ms);
  out->set_size_bytes(size_bytes);
  for (const PartSpec& part : parts) {
    v1::PartSpec& spec = *out->add_parts();
    spec.set_dtype(static_cast<v1::DataType>(part.dtype));
    spec.mutable_shape()->Add(part.shape.begin(), part.shape.end());
    spec.set_size_bytes(part.size_bytes);
  }
}

}  // namespace infercache::local
