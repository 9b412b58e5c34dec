// What the daemon answers over HTTP: /metrics, /healthz, /livez, /readyz, /version.

#pragma once

#include <chrono>

#include "common/heartbeat.h"
#include "server/http/http_server.h"
#include "server/lifecycle.h"
#include "server/metrics.h"

namespace infercache::server {

// A thread that has not beaten for longer hangs.
inline constexpr std::chrono::seconds kLongestSilence{10};

// All outlive the routes. healthz and livez: 200 while every thread shows signs of life, 503 with
// the names of those that do not otherwise. readyz: the same, and 503 with "starting" or "draining"
// unless it serves.
HttpServer::Routes Endpoints(const Metrics& metrics, const Lifecycle& lifecycle,
                             const Heartbeats& heartbeats);

}  // namespace infercache::server
