// Looks at key material before gRPC does: gRPC only fails, and for sockets that are accepted
// outside of it not before the first handshake.

#pragma once

#include "absl/status/status.h"
#include "server/rpc/rpc_server.h"

namespace infercache::rpc {

// INVALID_ARGUMENT names the field: no PEM certificate or key, or a key of another certificate.
absl::Status CheckTls(const TlsConfig& tls);

}  // namespace infercache::rpc
