// The vocabulary of infercache/types.h <-> the messages of types.proto.

#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "infercache/types.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

// An object without its bytes, as the daemon describes it.
struct ObjectDescription {
  ObjectInfo info;
  std::vector<PartSpec> parts;  // never empty
  uint64_t size_bytes = 0;      // the sum of the parts
};

// INVALID_ARGUMENT if it describes nothing that can be: an unknown type, sizes that do not add up
// or contradict a shape, a field over its limit.
absl::StatusOr<ObjectDescription> FromProto(const v1::ObjectDescription& proto);

void ToProto(const ObjectInfo& info, v1::ObjectInfo* proto);
void ToProto(const PartSpec& part, v1::PartSpec* proto);
v1::Scope ToProto(const std::string& namespace_name, const FingerprintEntries& fingerprint);

}  // namespace infercache
