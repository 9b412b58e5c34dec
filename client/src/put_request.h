// Builds the requests of puts: message heads by Protobuf, values copied behind them, once.

#pragma once

#include <span>
#include <string>
#include <vector>

#include "grpcpp/support/byte_buffer.h"
#include "infercache/client.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

// Bytes of all pieces.
uint64_t ValueBytes(const PutItem& item);

// A PutRequest of these items.
grpc::ByteBuffer MakePutRequest(const v1::Scope& scope, std::span<const PutItem> items);

// The first message of a PutStream.
grpc::ByteBuffer MakePutStreamHeader(const v1::Scope& scope, const PutItem& item);

// Reads a gathered value piece by piece, in order. Borrows the value.
class ValueReader {
 public:
  explicit ValueReader(std::span<const std::span<const std::byte>> value) : value_(value) {}

  uint64_t remaining() const;
  // Fills `destination` with what follows. REQUIRES: destination.size() <= remaining().
  void Read(std::span<std::byte> destination);

 private:
  std::span<const std::span<const std::byte>> value_;
  size_t offset_ = 0;  // in value_[0]
};

// A following message of a PutStream with the next `bytes` of the value.
// REQUIRES: bytes <= value.remaining().
grpc::ByteBuffer MakePutStreamChunk(ValueReader& value, size_t bytes);

}  // namespace infercache
