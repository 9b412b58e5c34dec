// A GetResponse as it lies in the network's buffers: descriptions decoded, values left in place.

#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "client/src/wire_cursor.h"
#include "convert/types.h"

namespace infercache {

struct ReceivedResult {
  bool found = false;
  // The following only if found.
  bool value_omitted = false;
  ObjectDescription description;
  WireCursor value;  // description.size_bytes long, unless omitted
};

// INVALID_ARGUMENT if the bytes are no GetResponse of `expected` results in which descriptions and
// values agree. The results borrow what `message` borrows.
absl::StatusOr<std::vector<ReceivedResult>> ParseGetResponse(WireCursor message, size_t expected);

// The same for what streams send first: INVALID_ARGUMENT, or a result without a value.
struct ReceivedChunk {
  bool is_header = false;
  ReceivedResult header;
  WireCursor chunk;
};
absl::StatusOr<ReceivedChunk> ParseGetStreamResponse(WireCursor message);

}  // namespace infercache
