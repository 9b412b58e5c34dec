// A small HTTP server for operators: answers GET and HEAD on a fixed set of paths. It reads nothing
// from requests but method and path, and has no credentials: it listens on loopback unless told
// otherwise.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

struct mg_context;
struct mg_connection;

namespace infercache::server {

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "text/plain; charset=utf-8";
};

class HttpServer {
 public:
  // By path, such as "/metrics". Called on several threads at once; must not throw.
  using Routes = std::map<std::string, std::function<HttpResponse()>, std::less<>>;

  // Listens before it returns; port 0 lets the kernel choose. `address`: HOST:PORT with a numeric
  // host or localhost. INVALID_ARGUMENT (malformed), UNAVAILABLE (cannot be bound); both name the
  // address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(std::string_view address, Routes routes);
  // Waits for requests being answered.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // As bound.
  const std::string& address() const { return address_; }

 private:
  explicit HttpServer(Routes routes);
  static int OnRequest(mg_connection* connection);
  int Answer(mg_connection* connection) const;

  const Routes routes_;
  std::string address_;
  mg_context* context_ = nullptr;
};

}  // namespace infercache::server
