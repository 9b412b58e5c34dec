// The work of Cache.Put, from the request's pieces to the outcome of each item.

#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "convert/types.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/put_wire.h"
#include "server/rpc/scope.h"

namespace infercache::rpc {

// Everything is checked before anything is stored: INVALID_ARGUMENT names the item. Then each item
// is reserved, copied and committed, the last one first, so that the head of a chain ends up most
// recently used. A refused item does not fail the others.
absl::Status StoreItems(const Scope& scope, const PutRequestView& request, Pieces pieces,
                        v1::PutResponse* response);

// What a writer says about an object, checked; with a reason.
absl::StatusOr<ObjectInfo> CheckInfo(const v1::ObjectInfo& info);
absl::StatusOr<std::vector<PartSpec>> CheckParts(const PartMessages& parts, uint64_t object_bytes);

// What the store says about an item, as the client shall see it: RESOURCE_EXHAUSTED gets a reason.
absl::Status ExplainRefusal(const absl::Status& status);

}  // namespace infercache::rpc
