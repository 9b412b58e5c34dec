// gRPC's byte buffers as messages and as pieces.

#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/rpc/put_wire.h"

namespace infercache::rpc {

template <typename Message>
grpc::ByteBuffer ToBuffer(const Message& message) {
  grpc::ByteBuffer buffer;
  bool own_buffer;
  grpc::GenericSerialize<grpc::ProtoBufferWriter, Message>(message, &buffer, &own_buffer);
  return buffer;
}

// A message's slices, kept alive, and where their bytes are.
class BufferPieces {
 public:
  explicit BufferPieces(const grpc::ByteBuffer& buffer) {
    buffer.Dump(&slices_);
    pieces_.reserve(slices_.size());
    for (const grpc::Slice& slice : slices_) {
      pieces_.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  // Short slices keep their bytes inside themselves: the views do not survive a move.
  BufferPieces(const BufferPieces&) = delete;
  BufferPieces& operator=(const BufferPieces&) = delete;

  Pieces pieces() const { return pieces_; }

 private:
  std::vector<grpc::Slice> slices_;
  std::vector<std::string_view> pieces_;
};

// A request that carries no values. INVALID_ARGUMENT if the bytes are no such message or have more
// of something than any request may.
template <typename Request>
absl::Status ParseRequest(const grpc::ByteBuffer& bytes, Request* request) {
  const absl::Status counts = CheckCounts(BufferPieces(bytes).pieces(), *Request::descriptor());
  if (!counts.ok()) return counts;
  grpc::ByteBuffer buffer(bytes);  // shares the slices; parsing empties it
  const grpc::Status status =
      grpc::GenericDeserialize<grpc::ProtoBufferReader, Request>(&buffer, request);
  return status.ok() ? absl::OkStatus() : Malformed(Request::descriptor()->name());
}

}  // namespace infercache::rpc
