// What the daemon answers over HTTP: /metrics, /healthz, /livez, /readyz, /version.

#pragma once

#include "server/http/http_server.h"
#include "server/lifecycle.h"
#include "server/metrics.h"

namespace infercache::server {

// Both outlive the routes. healthz and livez: 200 while the process runs. readyz: 200 while it
// serves, 503 with "starting" or "draining" otherwise.
HttpServer::Routes Endpoints(const Metrics& metrics, const Lifecycle& lifecycle);

}  // namespace infercache::server
