// Between the messages of types.proto and the project's own types. What comes in is checked against
// every limit; what goes out is taken as it is.

#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "infercache/types.h"
#include "infercache/v1/types.pb.h"

namespace infercache::rpc {

using FingerprintMessage = google::protobuf::RepeatedPtrField<v1::FingerprintEntry>;
using PartMessages = google::protobuf::RepeatedPtrField<v1::PartSpec>;

// Unchecked: Fingerprint::Make checks.
FingerprintEntries ToFingerprintEntries(const FingerprintMessage& entries);
void SetFingerprint(const FingerprintEntries& entries, FingerprintMessage* out);

// INVALID_ARGUMENT names the field and its limit.
absl::StatusOr<ObjectInfo> ToObjectInfo(const v1::ObjectInfo& info);
void SetObjectInfo(const ObjectInfo& info, v1::ObjectInfo* out);

// The parts of an object of `object_bytes`; INVALID_ARGUMENT names the part.
absl::StatusOr<std::vector<PartSpec>> ToParts(const PartMessages& parts, uint64_t object_bytes);
void SetParts(const std::vector<PartSpec>& parts, PartMessages* out);

}  // namespace infercache::rpc
