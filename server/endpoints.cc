#include "server/endpoints.h"

#include "server/text.h"
#include "server/version.h"

namespace infercache::server {
namespace {

HttpResponse Readiness(const Lifecycle& lifecycle) {
  switch (lifecycle.state()) {
    case Lifecycle::State::kStarting:
      return {503, "starting\n"};
    case Lifecycle::State::kServing:
      return {200, "ready\n"};
    case Lifecycle::State::kDraining:
      return {503, "draining\n"};
  }
  return {503, "unknown\n"};
}

HttpResponse VersionJson() {
  return {200,
          Cat("{\"version\": \"", Version(), "\", \"revision\": \"", Revision(),
              "\", \"compiler\": \"", Compiler(), "\"}\n"),
          "application/json"};
}

}  // namespace

HttpServer::Routes Endpoints(const Metrics& metrics, const Lifecycle& lifecycle) {
  const auto alive = [] { return HttpResponse{200, "ok\n"}; };
  return {
      {"/metrics",
       [&metrics] {
         return HttpResponse{200, metrics.Text(), "text/plain; version=0.0.4; charset=utf-8"};
       }},
      {"/healthz", alive},
      {"/livez", alive},
      {"/readyz", [&lifecycle] { return Readiness(lifecycle); }},
      {"/version", VersionJson},
  };
}

}  // namespace infercache::server
