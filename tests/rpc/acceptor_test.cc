#include "server/rpc/acceptor.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <utility>
#include <vector>

#include "common/unique_fd.h"
#include "server/rpc/address.h"

namespace infercache::rpc {
namespace {

bool IsShutDown(int socket) {
  char byte;
  return recv(socket, &byte, 1, MSG_DONTWAIT) == 0;
}

// Under a flood of connections the thread did nothing but accept.
TEST(Acceptor, ObeysOrdersWhileConnectionsWait) {
  constexpr size_t kWaiting = 100;
  auto listener = Listen(*ParseAddress("127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const SocketAddress address = listener->address;
  std::vector<ListeningSocket> listeners;
  listeners.push_back(*std::move(listener));
  std::vector<UniqueFd> clients, served;
  for (size_t i = 0; i < kWaiting; ++i) {
    clients.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(clients.back().get(), reinterpret_cast<const sockaddr*>(&address.storage),
                      address.size),
              0);
  }
  std::promise<bool> obeyed;
  Acceptor acceptor(std::move(listeners), /*max_connections=*/kWaiting);
  acceptor.Start(
      [&](int fd, bool) {
        served.emplace_back(fd);
        if (served.size() == 1) acceptor.DisconnectAllAt(std::chrono::steady_clock::now());
        if (served.size() == kWaiting) obeyed.set_value(IsShutDown(served.front().get()));
      },
      [] {});
  EXPECT_TRUE(obeyed.get_future().get()) << "not before the last one was accepted";
  acceptor.Stop();
}

}  // namespace
}  // namespace infercache::rpc
