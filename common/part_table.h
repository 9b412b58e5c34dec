// How the parts of an object are described in shared memory: compact, because it stands beside the
// key in every record. Equal neighbours (one K/V tensor per layer) collapse into one run:
//
//   empty                                  one part of plain bytes
//   run*, until the end:
//     varint  how many equal parts
//     byte    dtype
//     byte    rank
//     varint* one dimension each; for plain bytes instead one varint: the size
//
// Varints are LEB128, as in Protobuf.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "infercache/types.h"

namespace infercache {

// Checks the parts against the limits, each size against its shape, and the sum against
// `object_bytes`, then encodes them. INVALID_ARGUMENT names the part. `parts` may be empty.
absl::StatusOr<std::string> EncodePartTable(std::span<const PartSpec> parts, uint64_t object_bytes);

// The inverse; an empty table gives no parts. `table` may be anything: INVALID_ARGUMENT if it is
// not the encoding of parts within the limits.
absl::StatusOr<std::vector<PartSpec>> DecodePartTable(std::string_view table);

// product(shape) * element size. False on overflow.
bool TensorBytes(DataType dtype, std::span<const uint64_t> shape, uint64_t* bytes);

}  // namespace infercache
