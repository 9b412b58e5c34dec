#include "server/rpc/convert.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/part_table.h"
#include "common/status_macros.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

template <typename... Args>
absl::Status Invalid(const char* reason, const Args&... message) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(message...)), reason);
}

}  // namespace

FingerprintEntries ToFingerprintEntries(const FingerprintMessage& entries) {
  FingerprintEntries result;
  result.reserve(entries.size());
  for (const auto& entry : entries) result.emplace_back(entry.key(), entry.value());
  return result;
}

void SetFingerprint(const FingerprintEntries& entries, FingerprintMessage* out) {
  out->Clear();
  for (const auto& [key, value] : entries) {
    v1::FingerprintEntry& entry = *out->Add();
    entry.set_key(key);
    entry.set_value(value);
  }
}

absl::StatusOr<ObjectInfo> ToObjectInfo(const v1::ObjectInfo& info) {
  constexpr char kReason[] = "INVALID_OBJECT_INFO";
  if (info.kind() < 0 || info.kind() > kLastObjectKind) {
    return Invalid(kReason, "info.kind: unknown value ", static_cast<int>(info.kind()));
  }
  // Written so that NaN fails too.
  if (!(info.compute_cost_ms() >= 0 && info.compute_cost_ms() <= kMaxComputeCostMs)) {
    return Invalid(kReason, "info.compute_cost_ms: ", info.compute_cost_ms(),
                   "; it must lie between 0 and ", kMaxComputeCostMs);
  }
  if (info.class_id() > kMaxClassId) {
    return Invalid(kReason, "info.class_id: ", info.class_id(), "; the limit is ", kMaxClassId);
  }
  if (info.ttl_ms() > kMaxTtlMs) {
    return Invalid("INVALID_TTL", "info.ttl_ms: ", info.ttl_ms(), "; the limit is ", kMaxTtlMs);
  }
  if (info.parent_key().size() > kMaxKeyBytes) {
    return Invalid("INVALID_KEY", "info.parent_key: ", info.parent_key().size(),
                   " bytes; the limit is ", kMaxKeyBytes);
  }
  return ObjectInfo{.kind = static_cast<ObjectKind>(info.kind()),
                    .compute_cost_ms = info.compute_cost_ms(),
                    .class_id = static_cast<uint8_t>(info.class_id()),
                    .ttl_ms = info.ttl_ms(),
                    .parent_key = info.parent_key()};
}

void SetObjectInfo(const ObjectInfo& info, v1::ObjectInfo* out) {
  out->set_kind(static_cast<v1::ObjectKind>(info.kind));
  out->set_compute_cost_ms(info.compute_cost_ms);
  out->set_class_id(info.class_id);
  out->set_ttl_ms(info.ttl_ms);
}

absl::StatusOr<std::vector<PartSpec>> ToParts(const PartMessages& parts, uint64_t object_bytes) {
  constexpr char kReason[] = "INVALID_PARTS";
  if (static_cast<size_t>(parts.size()) > kMaxParts) {
    return Invalid(kReason, "parts: ", parts.size(), " of them; the limit is ", kMaxParts);
  }
  std::vector<PartSpec> result;
  result.reserve(parts.size());
  for (int i = 0; i < parts.size(); ++i) {
    const v1::PartSpec& part = parts[i];
    if (part.dtype() < 0 || part.dtype() > kLastDataType) {
      return Invalid(kReason, "parts[", i, "].dtype: unknown value ",
                     static_cast<int>(part.dtype()));
    }
    if (static_cast<size_t>(part.shape_size()) > kMaxRank) {
      return Invalid(kReason, "parts[", i, "].shape: rank ", part.shape_size(), "; the limit is ",
                     kMaxRank);
    }
    result.push_back({.dtype = static_cast<DataType>(part.dtype()),
                      .shape = {part.shape().begin(), part.shape().end()},
                      .size_bytes = part.size_bytes()});
  }
  if (const auto table = EncodePartTable(result, object_bytes); !table.ok()) {
    return WithReason(table.status(), kReason);
  }
  return result;
}

void SetParts(const std::vector<PartSpec>& parts, PartMessages* out) {
  out->Clear();
  for (const PartSpec& part : parts) {
    v1::PartSpec& message = *out->Add();
    message.set_dtype(static_cast<v1::DataType>(part.dtype));
    message.mutable_shape()->Add(part.shape.begin(), part.shape.end());
    message.set_size_bytes(part.size_bytes);
  }
}

}  // namespace infercache::rpc
