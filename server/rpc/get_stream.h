// The reactor of Cache.GetStream.

#pragma once

#include <grpcpp/support/server_callback.h>

#include "server/rpc/scope.h"

namespace infercache::rpc {

// One object in chunks, one chunk in flight: the next one is handed to gRPC when the last one has
// left. Deletes itself.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGetStream(const Environment& environment,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request);

}  // namespace infercache::rpc
