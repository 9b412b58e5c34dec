#include "convert/types.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/part_table.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

template <typename... Args>
absl::Status Invalid(const Args&... message) {
  return absl::InvalidArgumentError(absl::StrCat(message...));
}

void SetHints(const ObjectInfo& info, v1::ObjectInfo* out) {
  out->set_kind(static_cast<v1::ObjectKind>(info.kind));
  out->set_compute_cost_ms(info.compute_cost_ms);
  out->set_class_id(info.class_id);
  out->set_ttl_ms(info.ttl_ms);
}

}  // namespace

absl::StatusOr<ObjectInfo> FromProto(const v1::ObjectInfo& info) {
  if (info.kind() < 0 || info.kind() > kLastObjectKind) {
    return Invalid("info.kind: unknown value ", static_cast<int>(info.kind()));
  }
  // Written so that NaN fails too.
  if (!(info.compute_cost_ms() >= 0 && info.compute_cost_ms() <= kMaxComputeCostMs)) {
    return Invalid("info.compute_cost_ms: ", info.compute_cost_ms(), "; it must lie between 0 and ",
                   kMaxComputeCostMs);
  }
  if (info.class_id() > kMaxClassId) {
    return Invalid("info.class_id: ", info.class_id(), "; the limit is ", kMaxClassId);
  }
  if (info.ttl_ms() > kMaxTtlMs) {
    return Invalid("info.ttl_ms: ", info.ttl_ms(), "; the limit is ", kMaxTtlMs);
  }
  if (info.parent_key().size() > kMaxKeyBytes) {
    return Invalid("info.parent_key: ", info.parent_key().size(), " bytes; the limit is ",
                   kMaxKeyBytes);
  }
  return ObjectInfo{.kind = static_cast<ObjectKind>(info.kind()),
                    .compute_cost_ms = info.compute_cost_ms(),
                    .class_id = static_cast<uint8_t>(info.class_id()),
                    .ttl_ms = info.ttl_ms(),
                    .parent_key = info.parent_key()};
}

absl::StatusOr<std::vector<PartSpec>> FromProto(const PartMessages& parts) {
  if (static_cast<size_t>(parts.size()) > kMaxParts) {
    return Invalid("parts: ", parts.size(), " of them; the limit is ", kMaxParts);
  }
  std::vector<PartSpec> result;
  result.reserve(parts.size());
  for (int i = 0; i < parts.size(); ++i) {
    const v1::PartSpec& part = parts[i];
    if (part.dtype() < 0 || part.dtype() > kLastDataType) {
      return Invalid("parts[", i, "].dtype: unknown value ", static_cast<int>(part.dtype()));
    }
    if (static_cast<size_t>(part.shape_size()) > kMaxRank) {
      return Invalid("parts[", i, "].shape: rank ", part.shape_size(), "; the limit is ", kMaxRank);
    }
    result.push_back({.dtype = static_cast<DataType>(part.dtype()),
                      .shape = {part.shape().begin(), part.shape().end()},
                      .size_bytes = part.size_bytes()});
  }
  return result;
}

absl::StatusOr<ObjectDescription> FromProto(const v1::ObjectDescription& description) {
  ObjectDescription result{.size_bytes = description.size_bytes()};
  if (result.size_bytes > kMaxObjectBytes) {
    return Invalid("size_bytes: ", result.size_bytes, "; the limit is ", kMaxObjectBytes);
  }
  ASSIGN_OR_RETURN(result.info, FromProto(description.info()));
  ASSIGN_OR_RETURN(result.parts, FromProto(description.parts()));
  RETURN_IF_ERROR(EncodePartTable(result.parts, result.size_bytes).status());
  if (result.parts.empty()) result.parts.push_back({.size_bytes = result.size_bytes});
  return result;
}

FingerprintEntries FromProto(const FingerprintMessages& entries) {
  FingerprintEntries result;
  result.reserve(entries.size());
  for (const auto& entry : entries) result.emplace_back(entry.key(), entry.value());
  return result;
}

void ToProto(const ObjectInfo& info, v1::ObjectInfo* out) {
  SetHints(info, out);
  out->set_parent_key(info.parent_key);
}

void ToProto(std::span<const PartSpec> parts, PartMessages* out) {
  out->Reserve(out->size() + static_cast<int>(parts.size()));
  for (const PartSpec& part : parts) {
    v1::PartSpec& message = *out->Add();
    message.set_dtype(static_cast<v1::DataType>(part.dtype));
    message.mutable_shape()->Add(part.shape.begin(), part.shape.end());
    message.set_size_bytes(part.size_bytes);
  }
}

void ToProto(const FingerprintEntries& entries, FingerprintMessages* out) {
  for (const auto& [key, value] : entries) {
    v1::FingerprintEntry& entry = *out->Add();
    entry.set_key(key);
    entry.set_value(value);
  }
}

void Describe(const ObjectInfo& info, uint64_t size_bytes, std::span<const PartSpec> parts,
              v1::ObjectDescription* out) {
  SetHints(info, out->mutable_info());
  out->set_size_bytes(size_bytes);
  ToProto(parts, out->mutable_parts());
}

v1::Scope ToScope(const std::string& namespace_name, const FingerprintEntries& fingerprint) {
  v1::Scope scope;
  scope.set_namespace_(namespace_name);
  ToProto(fingerprint, scope.mutable_fingerprint());
  return scope;
}

}  // namespace infercache
