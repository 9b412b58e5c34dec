#include "server/endpoints.h"

#include "server/text.h"
#include "server/version.h"

namespace infercache::server {
namespace {

HttpResponse Liveness(const Heartbeats& heartbeats) {
  const std::vector<std::string> silent = heartbeats.Silent(kLongestSilence);
  if (silent.empty()) return {200, "ok\n"};
  std::string names;
  for (const std::string& name : silent) names += Cat(names.empty() ? "" : ", ", name);
  return {503, Cat("no sign of life for ", kLongestSilence.count(), " s: ", names, "\n")};
}

HttpResponse Readiness(const Lifecycle& lifecycle, const Heartbeats& heartbeats) {
  switch (lifecycle.state()) {
    case Lifecycle::State::kStarting:
      return {503, "starting\n"};
    case Lifecycle::State::kServing:
      break;
    case Lifecycle::State::kDraining:
      return {503, "draining\n"};
  }
  HttpResponse alive = Liveness(heartbeats);
  if (alive.status == 200) alive.body = "ready\n";
  return alive;
}

HttpResponse VersionJson() {
  return {200,
          Cat("{\"version\": \"", Version(), "\", \"revision\": \"", Revision(),
              "\", \"compiler\": \"", Compiler(), "\"}\n"),
          "application/json"};
}

}  // namespace

HttpServer::Routes Endpoints(const Metrics& metrics, const Lifecycle& lifecycle,
                             const Heartbeats& heartbeats) {
  const auto alive = [&heartbeats] { return Liveness(heartbeats); };
  return {
      {"/metrics",
       [&metrics] {
         return HttpResponse{200, metrics.Text(), "text/plain; version=0.0.4; charset=utf-8"};
       }},
      {"/healthz", alive},
      {"/livez", alive},
      {"/readyz", [&lifecycle, &heartbeats] { return Readiness(lifecycle, heartbeats); }},
      {"/version", VersionJson},
  };
}

}  // namespace infercache::server
