// Reads PutRequest and PutStreamRequest where they lie, in the pieces that gRPC received, without
// copying the values. Everything else is decoded by Protobuf.
//
// Accepts and rejects what Protobuf's own parser does: fields in any order, the last of a repeated
// scalar wins, sub-messages that come twice are merged, unknown fields are skipped.
// Parts above the limit are dropped but for one, which is enough to refuse the item: two bytes on
// the wire would become a hundred in memory.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "infercache/v1/cache.pb.h"

namespace infercache::rpc {

// The pieces of one message, in order. Empty ones are legal.
using Pieces = std::span<const std::string_view>;

// Bytes of a message: they begin in pieces[piece] at offset and may go on in the pieces after it.
struct ByteRun {
  size_t piece = 0;
  size_t offset = 0;
  size_t size = 0;
};

// REQUIRES: `run` came from these pieces, destination.size() == run.size.
void CopyRun(Pieces pieces, const ByteRun& run, std::span<std::byte> destination);

struct PutItemView {
  v1::PutItem item;  // without its value
  ByteRun value;
};

struct PutRequestView {
  v1::Scope scope;
  std::vector<PutItemView> items;
};

// INVALID_ARGUMENT if the pieces are no PutRequest.
absl::StatusOr<PutRequestView> ParsePutRequest(Pieces pieces);

// Counts, in any request of infercache.v1.Cache, its keys or items (field 2) and the entries of its
// scope's fingerprint, before Protobuf makes an object of each. INVALID_ARGUMENT: too many, of
// `elements` or of the others. Malformed bytes are left for Protobuf to refuse.
absl::Status CheckCounts(Pieces pieces, std::string_view elements);

// At most one of the two is set: the one that came last.
struct PutStreamRequestView {
  std::optional<v1::PutStreamHeader> header;
  std::optional<ByteRun> chunk;
};

// INVALID_ARGUMENT if the pieces are no PutStreamRequest.
absl::StatusOr<PutStreamRequestView> ParsePutStreamRequest(Pieces pieces);

}  // namespace infercache::rpc
