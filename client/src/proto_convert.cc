#include "client/src/proto_convert.h"

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

absl::StatusOr<ObjectInfo> FromProto(const v1::ObjectInfo& proto) {
  if (proto.kind() < 0 || proto.kind() > kLastObjectKind) {
    return absl::InvalidArgumentError(absl::StrCat("unknown object kind ", proto.kind()));
  }
  if (proto.class_id() > kMaxClassId) {
    return absl::InvalidArgumentError(absl::StrCat("class id ", proto.class_id()));
  }
  ObjectInfo info;
  info.kind = static_cast<ObjectKind>(proto.kind());
  info.compute_cost_ms = proto.compute_cost_ms();
  info.class_id = static_cast<uint8_t>(proto.class_id());
  info.ttl_ms = proto.ttl_ms();
  return info;
}

// A reader indexes memory by this shape: it must not claim more than there is.
absl::Status CheckShape(const PartSpec& part) {
  if (part.dtype == DataType::kBytes) {
    return part.shape.empty() ? absl::OkStatus()
                              : absl::InvalidArgumentError("plain bytes with a shape");
  }
  if (part.shape.size() > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat("tensor of rank ", part.shape.size()));
  }
  uint64_t size = ElementSize(part.dtype);
  for (const uint64_t dimension : part.shape) {
    if (__builtin_mul_overflow(size, dimension, &size)) {
      return absl::InvalidArgumentError("tensor shape overflows");
    }
  }
  if (size != part.size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor of ", part.size_bytes, " bytes whose shape needs ", size));
  }
  return absl::OkStatus();
}

absl::StatusOr<PartSpec> FromProto(const v1::PartSpec& proto) {
  if (proto.dtype() < 0 || proto.dtype() > kLastDataType) {
    return absl::InvalidArgumentError(absl::StrCat("unknown data type ", proto.dtype()));
  }
  PartSpec part;
  part.dtype = static_cast<DataType>(proto.dtype());
  part.shape.assign(proto.shape().begin(), proto.shape().end());
  part.size_bytes = proto.size_bytes();
  RETURN_IF_ERROR(CheckShape(part));
  return part;
}

}  // namespace

absl::StatusOr<ObjectDescription> FromProto(const v1::ObjectDescription& proto) {
  ObjectDescription result;
  ASSIGN_OR_RETURN(result.info, FromProto(proto.info()));
  result.size_bytes = proto.size_bytes();
  if (result.size_bytes > kMaxObjectBytes) {
    return absl::InvalidArgumentError(absl::StrCat("object of ", result.size_bytes, " bytes"));
  }
  if (static_cast<size_t>(proto.parts_size()) > kMaxParts) {
    return absl::InvalidArgumentError(absl::StrCat("object of ", proto.parts_size(), " parts"));
  }
  if (proto.parts().empty()) {
    PartSpec& part = result.parts.emplace_back();
    part.size_bytes = result.size_bytes;
    return result;
  }
  uint64_t left = result.size_bytes;
  for (const v1::PartSpec& part_proto : proto.parts()) {
    ASSIGN_OR_RETURN(PartSpec part, FromProto(part_proto));
    if (part.size_bytes > left) {
      return absl::InvalidArgumentError("parts are larger than their object");
    }
    left -= part.size_bytes;
    result.parts.push_back(std::move(part));
  }
  if (left != 0) return absl::InvalidArgumentError("parts are smaller than their object");
  return result;
}

void ToProto(const ObjectInfo& info, v1::ObjectInfo* proto) {
  proto->set_kind(static_cast<v1::ObjectKind>(info.kind));
  proto->set_compute_cost_ms(info.compute_cost_ms);
  proto->set_class_id(info.class_id);
  proto->set_ttl_ms(info.ttl_ms);
  proto->set_parent_key(info.parent_key);
}

void ToProto(const PartSpec& part, v1::PartSpec* proto) {
  proto->set_dtype(static_cast<v1::DataType>(part.dtype));
  proto->mutable_shape()->Add(part.shape.begin(), part.shape.end());
  proto->set_size_bytes(part.size_bytes);
}

v1::Scope ToProto(const std::string& namespace_name, const FingerprintEntries& fingerprint) {
  v1::Scope scope;
  scope.set_namespace_(namespace_name);
  for (const auto& [key, value] : fingerprint) {
    v1::FingerprintEntry* entry = scope.add_fingerprint();
    entry->set_key(key);
    entry->set_value(value);
  }
  return scope;
}

}  // namespace infercache
