#include "server/http/http_server.h"

#include <civetweb.h>
#include <netdb.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <future>
#include <utility>

#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "server/config_values.h"
#include "server/text.h"

namespace infercache::server {
namespace {

// Connections are closed after one answer, and a request may take no longer than kRequestTimeoutMs
// to arrive. Until then each has a thread: those that say nothing must not keep a probe waiting.
constexpr const char* kThreads = "32";
constexpr const char* kRequestTimeoutMs = "2000";

std::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

int LogMessage(const mg_connection*, const char* message) {
  spdlog::warn("http: {}", message);
  return 1;  // logged
}

// Connects to a numeric HOST:PORT and hangs up. That it may fail is all right: nobody listens then.
void Poke(const std::string& address) {
  const auto target = ParseHostPort(address);
  if (!target.ok()) return;
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(target->host.c_str(), Cat(target->port).c_str(), &hints, &found) != 0) return;
  const UniqueFd socket_fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket_fd.valid()) (void)connect(socket_fd.get(), found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
}

}  // namespace

HttpServer::HttpServer(Routes routes) : routes_(std::move(routes)) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(std::string_view address,
                                                              Routes routes) {
  ASSIGN_OR_RETURN(HostPort listen, ParseHostPort(address));
  if (listen.host == "localhost") listen.host = "127.0.0.1";
  auto server = std::unique_ptr<HttpServer>(new HttpServer(std::move(routes)));

  mg_callbacks callbacks = {};
  callbacks.begin_request = &HttpServer::OnRequest;
  callbacks.log_message = &LogMessage;
  const std::string ports = listen.ToString();
  std::array<const char*, 9> options = {
      "listening_ports", ports.c_str(),       "num_threads", kThreads, "request_timeout_ms",
      kRequestTimeoutMs, "enable_keep_alive", "no",          nullptr};
  mg_init_data init = {};
  init.callbacks = &callbacks;
  init.user_data = server.get();
  init.configuration_options = options.data();
  std::array<char, 256> text = {};
  mg_error_data error = {};
  error.text = text.data();
  error.text_buffer_size = text.size();
  server->context_ = mg_start2(&init, &error);
  if (server->context_ == nullptr) {
    return absl::UnavailableError(
        Cat("cannot listen on ", ports, " for HTTP: ", std::string_view(text.data())));
  }

  mg_server_port bound = {};
  if (mg_get_server_ports(server->context_, 1, &bound) == 1) {
    listen.port = static_cast<uint16_t>(bound.port);
  }
  server->address_ = listen.ToString();
  return server;
}

// CivetWeb's acceptor looks at its stop flag only when its poll returns: after two seconds, or when
// somebody connects.
HttpServer::~HttpServer() {
  if (context_ == nullptr) return;
  const std::future<void> stopped = std::async(std::launch::async, mg_stop, context_);
  while (stopped.wait_for(std::chrono::milliseconds(10)) != std::future_status::ready) {
    Poke(address_);
  }
}

int HttpServer::OnRequest(mg_connection* connection) {
  const auto* server = static_cast<const HttpServer*>(mg_get_user_data(mg_get_context(connection)));
  return server->Answer(connection);
}

int HttpServer::Answer(mg_connection* connection) const {
  const mg_request_info* request = mg_get_request_info(connection);
  const std::string_view method = request->request_method;
  const std::string_view path = request->local_uri != nullptr ? request->local_uri : "";
  HttpResponse response;
  const auto route = routes_.find(path);
  if (method != "GET" && method != "HEAD") {
    response = {405, "only GET and HEAD\n"};
  } else if (route == routes_.end()) {
    response = {404, "not found; there are:\n"};
    for (const auto& [known, handler] : routes_) Append(response.body, known, "\n");
  } else {
    response = route->second();
  }

  std::string head =
      Cat("HTTP/1.1 ", response.status, " ", Reason(response.status),
          "\r\nContent-Type: ", response.content_type, "\r\nContent-Length: ", response.body.size(),
          "\r\nCache-Control: no-store\r\nConnection: close\r\n");
  if (response.status == 405) Append(head, "Allow: GET, HEAD\r\n");
  Append(head, "\r\n");
  if (method != "HEAD") Append(head, response.body);
  // A client that went away is its own loss.
  (void)mg_write(connection, head.data(), head.size());
  return response.status;
}

}  // namespace infercache::server
