// Reads PutRequest and PutStreamRequest where they lie, in the pieces that gRPC received, without
// copying the values. Everything else is decoded by Protobuf.
//
// Accepts and rejects what Protobuf's own parser does: fields in any order, the last of a repeated
// scalar wins, sub-messages that come twice are merged, unknown fields are skipped. But what has
// more of something than any request may (field_counter.h) is refused before Protobuf makes an
// object of each, and of an item's parts above its limit all but one are dropped, which is enough
// to refuse the item.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
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

// INVALID_ARGUMENT if the pieces are no PutRequest, or one with too many of something.
absl::StatusOr<PutRequestView> ParsePutRequest(Pieces pieces);

// The same for a message that is left to Protobuf: whether it may parse it.
absl::Status CheckCounts(Pieces pieces, const google::protobuf::Descriptor& type);
// What is said of a request that is no `message`.
absl::Status Malformed(const std::string& message);

// At most one of the two is set: the one that came last.
struct PutStreamRequestView {
  std::optional<v1::PutStreamHeader> header;
  std::optional<ByteRun> chunk;
};

// INVALID_ARGUMENT if the pieces are no PutStreamRequest, or one with too many of something.
absl::StatusOr<PutStreamRequestView> ParsePutStreamRequest(Pieces pieces);

}  // namespace infercache::rpc
