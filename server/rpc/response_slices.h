// Answers that carry values: hand-made heads, and gRPC slices that point into the arena.
//
// A GetResponse on the wire, for one result that is pinned:
//
//   0A len | 08 01  12 len description  22 len | value bytes
//   `------------- head slice -----------------' `- arena slice: pinned until gRPC lets go of it

#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/scope.h"
#include "server/store/lease.h"

namespace infercache::rpc {

// Values below this are copied into the head: cheaper than a slice of their own.
inline constexpr uint64_t kCopyBelowBytes = 64 * 1024;

void Describe(const store::ReadLease& lease, v1::ObjectDescription* out);

// A serialized GetResponse with one result per key, in order; counts their uses. Values that would
// take the response above max_message_bytes or above a bound of the budget are omitted: those
// results say how large the object is and nothing else of it. RESOURCE_EXHAUSTED: too many keys for
// a message of that size, or other responses hold too much.
absl::StatusOr<grpc::ByteBuffer> MakeGetResponse(const Scope& scope, const v1::GetRequest& request,
                                                 const Environment& environment);

// An answer without values that may be much larger than what was asked; its bytes are held as those
// of values are. RESOURCE_EXHAUSTED: other responses hold too much.
absl::StatusOr<grpc::ByteBuffer> MakeHeldResponse(const Scope& scope,
                                                  const google::protobuf::MessageLite& message,
                                                  const Environment& environment);

// An object on its way in chunks; every chunk in flight shares it.
struct StreamedObject {
  std::shared_ptr<PinnedBudget::Hold> hold;  // before the lease: the pin goes first
  store::ReadLease lease;
};

// A serialized GetStreamResponse whose chunk is [offset, offset + size) of the object.
grpc::ByteBuffer MakeChunk(const std::shared_ptr<StreamedObject>& object, uint64_t offset,
                           uint64_t size);

}  // namespace infercache::rpc
