// A page of keys on the wire.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/hash.h"
#include "infercache/v1/types.pb.h"
#include "server/store/namespace.h"

namespace infercache {

struct ListRequest {
  const std::string& key_prefix;
  const std::string& page_token;  // from the answer before; empty = from the start
  uint32_t page_size;             // 0 = the default
  size_t max_bytes;               // of the answer's objects; one object is told whatever it takes
};

struct KeyListing {
  google::protobuf::RepeatedPtrField<v1::ListedObject> objects;
  std::string next_page_token;  // empty = no more
};

// INVALID_ARGUMENT names the field.
absl::StatusOr<KeyListing> ListKeys(store::Namespace& ns, const Hash128& fingerprint,
                                    const ListRequest& request);

}  // namespace infercache
