// The reactor of Cache.PutStream.

#pragma once

#include <grpcpp/support/server_callback.h>

#include "server/rpc/scope.h"

namespace infercache::rpc {

// One object in chunks, each written in place into the reservation as it arrives. A stream that
// ends early, or whose client leaves, aborts the reservation. Deletes itself.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartPutStream(const Environment& environment,
                                                          grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response);

}  // namespace infercache::rpc
