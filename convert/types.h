// The vocabulary of infercache/types.h <-> the messages of types.proto. What comes in is checked
// against every limit, whoever sent it, and INVALID_ARGUMENT names the field; what goes out is
// taken as it is.

#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "infercache/types.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

using FingerprintMessages = google::protobuf::RepeatedPtrField<v1::FingerprintEntry>;
using PartMessages = google::protobuf::RepeatedPtrField<v1::PartSpec>;

// An object without its bytes, as the daemon describes it.
struct ObjectDescription {
  ObjectInfo info = {};
  std::vector<PartSpec> parts = {};  // never empty
  uint64_t size_bytes = 0;           // the sum of the parts
};

absl::StatusOr<ObjectInfo> FromProto(const v1::ObjectInfo& info);
// None stand for one part of plain bytes. Unchecked: whether they make up their object, which
// EncodePartTable says.
absl::StatusOr<std::vector<PartSpec>> FromProto(const PartMessages& parts);
absl::StatusOr<ObjectDescription> FromProto(const v1::ObjectDescription& description);
// Unchecked: Fingerprint::Make checks.
FingerprintEntries FromProto(const FingerprintMessages& entries);

// These add to what `out` holds already.
void ToProto(const ObjectInfo& info, v1::ObjectInfo* out);
void ToProto(std::span<const PartSpec> parts, PartMessages* out);
void ToProto(const FingerprintEntries& entries, FingerprintMessages* out);
// Without the parent's key, which only requests have.
void Describe(const ObjectInfo& info, uint64_t size_bytes, std::span<const PartSpec> parts,
              v1::ObjectDescription* out);
v1::Scope ToScope(const std::string& namespace_name, const FingerprintEntries& fingerprint);

}  // namespace infercache
