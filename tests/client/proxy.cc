#include "tests/client/proxy.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace infercache {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

void Check(bool ok) {
  if (!ok) std::abort();
}

// False at the end of the connection.
bool Forward(int from, int to) {
  char buffer[64 * 1024];
  const ssize_t bytes = recv(from, buffer, sizeof(buffer), 0);
  if (bytes <= 0) return false;
  for (ssize_t sent = 0; sent < bytes;) {
    const ssize_t n = send(to, buffer + sent, static_cast<size_t>(bytes - sent), MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += n;
  }
  return true;
}

}  // namespace

Proxy::Proxy(const std::string& endpoint)
    : daemon_port_(std::atoi(endpoint.substr(endpoint.rfind(':') + 1).c_str())),
      listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  Check(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
  Check(listen(listener_.get(), 64) == 0);
  Check(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Run(); });
}

Proxy::~Proxy() {
  stop_ = true;
  Wake();
  thread_.join();
}

std::string Proxy::endpoint() const { return absl::StrCat("127.0.0.1:", port_); }

void Proxy::Wake() { Check(eventfd_write(wake_.get(), 1) == 0); }

void Proxy::Accept() {
  Pair pair{UniqueFd(accept(listener_.get(), nullptr, nullptr)),
            UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  const sockaddr_in address = Loopback(daemon_port_);
  const bool connected =
      connect(pair.daemon.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  if (pair.client.valid() && connected) pairs_.push_back(std::move(pair));
}

void Proxy::Run() {
  while (!stop_) {
    if (cut_.exchange(false)) pairs_.clear();
    std::vector<pollfd> waiting = {{wake_.get(), POLLIN, 0}};
    if (!stalled_) {
      waiting.push_back({listener_.get(), POLLIN, 0});
      for (const Pair& pair : pairs_) {
        waiting.push_back({pair.client.get(), POLLIN, 0});
        waiting.push_back({pair.daemon.get(), POLLIN, 0});
      }
    }
    Check(poll(waiting.data(), waiting.size(), -1) >= 0);
    eventfd_t count;
    if (waiting[0].revents != 0) {
      Check(eventfd_read(wake_.get(), &count) == 0);
      continue;  // what the wake-up was for comes before more bytes
    }
    const size_t old_pairs = pairs_.size();
    if (waiting[1].revents != 0) Accept();
    for (size_t i = old_pairs; i-- > 0;) {
      const int client = pairs_[i].client.get();
      const int daemon = pairs_[i].daemon.get();
      const bool open = (waiting[2 + 2 * i].revents == 0 || Forward(client, daemon)) &&
                        (waiting[3 + 2 * i].revents == 0 || Forward(daemon, client));
      if (!open) pairs_.erase(pairs_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

}  // namespace infercache
