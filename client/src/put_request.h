// Builds the requests of puts: message heads by Protobuf, values copied behind them, once.

#pragma once

#include <span>
#include <string>
#include <vector>

#include "client/src/value_reader.h"
#include "grpcpp/support/byte_buffer.h"
#include "infercache/client.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

// A PutRequest of these items.
grpc::ByteBuffer MakePutRequest(const v1::Scope& scope, std::span<const PutItem> items);

// The first message of a PutStream. `ends_request`: the item is the last block of a batch.
grpc::ByteBuffer MakePutStreamHeader(const v1::Scope& scope, const PutItem& item,
                                     bool ends_request);

// A following message of a PutStream with the next `bytes` of the value.
// REQUIRES: bytes <= value.remaining().
grpc::ByteBuffer MakePutStreamChunk(ValueReader& value, size_t bytes);

}  // namespace infercache
