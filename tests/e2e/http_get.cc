#include "tests/e2e/http_get.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstdlib>
#include <memory>

#include "common/unique_fd.h"

namespace infercache::e2e {
namespace {

absl::Status Unavailable(const std::string& address, const char* what) {
  return absl::UnavailableError(address + ": " + what);
}

UniqueFd Connect(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0) {
    return UniqueFd();
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval timeout = {.tv_sec = 10, .tv_usec = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  if (connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) return UniqueFd();
  return fd;
}

}  // namespace

absl::StatusOr<HttpAnswer> Http(const std::string& address, const std::string& method,
                                const std::string& path) {
  const UniqueFd fd = Connect(address);
  if (!fd.valid()) return Unavailable(address, "cannot connect");
  const std::string request =
      method + " " + path + " HTTP/1.1\r\nHost: " + address + "\r\nContent-Length: 0\r\n\r\n";
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Unavailable(address, "cannot send");
  }
  std::string answer;
  char buffer[4096];
  ssize_t n;
  while ((n = recv(fd.get(), buffer, sizeof(buffer), 0)) > 0) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  const size_t end = answer.find("\r\n\r\n");
  if (n < 0 || end == std::string::npos) return Unavailable(address, "no answer");
  HttpAnswer result;
  result.head = answer.substr(0, end + 2);
  result.body = answer.substr(end + 4);
  const size_t space = result.head.find(' ');
  result.status = std::atoi(result.head.c_str() + space + 1);
  return result;
}

}  // namespace infercache::e2e
