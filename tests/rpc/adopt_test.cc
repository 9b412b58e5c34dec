// Connections that somebody else accepted and handed over: they are served, bounded and ended like
// the server's own.

#include <grpcpp/create_channel_posix.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

using grpc::StatusCode;

struct SocketPair {
  UniqueFd server;
  UniqueFd client;
};

SocketPair MakeSocketPair() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Whether the other end is closed; waits for it.
bool IsClosed(const UniqueFd& socket) {
  return Eventually([&socket] {
    char byte;
    const ssize_t n = recv(socket.get(), &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
  });
}

class AdoptTest : public RpcTest {
 protected:
  // A client whose connection the server was given.
  std::shared_ptr<grpc::Channel> HandOver(AdminRight right = AdminRight::kNone) {
    SocketPair pair = MakeSocketPair();
    server->Adopt(std::move(pair.server), right);
    return grpc::CreateInsecureChannelFromFd("handed over", pair.client.Release());
  }

  void UseHandedOver() {
    const auto handed_over = HandOver();
    cache = v1::Cache::NewStub(handed_over);
    admin = v1::Admin::NewStub(handed_over);
  }
};

TEST_F(AdoptTest, ServesWithoutAnAddressOfItsOwn) {
  options.listen = {};
  store = std::make_unique<store::Store>(
      store::StoreOptions{.capacity_bytes = capacity_bytes, .chunk_bytes = capacity_bytes}, clock);
  ASSERT_TRUE(store->CreateNamespace(default_namespace).ok());
  hooks.socket_path = "/run/x.sock";
  auto started = RpcServer::Start(options, *store, hooks, observer);
  ASSERT_TRUE(started.ok()) << started.status();
  server = *std::move(started);
  EXPECT_TRUE(server->addresses().empty());
  UseHandedOver();
  Store("k", Pattern(3 * kMiB, 1));
  EXPECT_EQ(Load("k"), Pattern(3 * kMiB, 1));
  EXPECT_EQ(server->stats().connections, 1u);
  // Its peer is loopback: it may ask.
  grpc::ClientContext context;
  v1::GetInfoResponse info;
  ASSERT_TRUE(admin->GetInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.grpc_address(), "unix:/run/x.sock");
}

TEST_F(AdoptTest, APeerHasTheRightThatItWasHandedOverWith) {
  options.loopback_admin = AdminRight::kNone;
  Start();
  const auto flush = [](const std::shared_ptr<grpc::Channel>& over) {
    grpc::ClientContext context;
    v1::FlushRequest request;
    request.set_namespace_("default");
    v1::FlushResponse response;
    return v1::Admin::NewStub(over)->Flush(&context, request, &response).error_code();
  };
  EXPECT_EQ(flush(HandOver(AdminRight::kAll)), StatusCode::OK);
  EXPECT_EQ(flush(HandOver(AdminRight::kRead)), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(flush(HandOver()), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(flush(channel), StatusCode::UNAUTHENTICATED) << "over TCP";
}

TEST_F(AdoptTest, CountsAgainstTheLimitOfConnections) {
  options.max_connections = 2;
  Start();
  Store("k", "v");  // one is the fixture's
  UseHandedOver();
  EXPECT_EQ(Load("k"), "v");
  SocketPair one_too_many = MakeSocketPair();
  server->Adopt(std::move(one_too_many.server));
  EXPECT_TRUE(IsClosed(one_too_many.client));
  EXPECT_EQ(server->stats().connections, 2u);
  EXPECT_EQ(Load("k"), "v");
}

TEST_F(AdoptTest, ForgetsAConnectionThatItsClientCloses) {
  Start();
  SocketPair pair = MakeSocketPair();
  server->Adopt(std::move(pair.server));
  ASSERT_TRUE(Eventually([this] { return server->stats().connections == 1; }));
  pair.client.Reset();
  EXPECT_TRUE(Eventually([this] { return server->stats().connections == 0; }));
}

TEST_F(AdoptTest, BoundsWhatAConnectionMayPin) {
  options.max_pinned_bytes = 16 * kMiB;
  options.max_pinned_bytes_per_connection = kMiB;
  Start();
  Store("small", Pattern(kMiB / 2, 1));
  Store("large", Pattern(2 * kMiB, 2));
  UseHandedOver();
  v1::GetResponse response;
  ASSERT_TRUE(Get(MakeGet({"large", "small"}), &response).ok());
  EXPECT_EQ(Load("small"), Pattern(kMiB / 2, 1));
  EXPECT_NE(Load("large"), Pattern(2 * kMiB, 2)) << "more than its connection may pin";
}

TEST_F(AdoptTest, ADrainAndAShutdownReachIt) {
  Start();
  UseHandedOver();
  Store("k", "v");
  server->BeginDrain();
  EXPECT_EQ(Put(MakePut("new", "v")).error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Load("k"), "v");
  // A connection that nobody uses, and one in the middle of a call.
  SocketPair idle = MakeSocketPair();
  server->Adopt(std::move(idle.server));
  grpc::ClientContext context;
  const auto watch = cache->GetStream(&context, v1::GetStreamRequest());
  server->Shutdown(absl::Now() + absl::Milliseconds(100));
  watch->Finish();
  EXPECT_TRUE(IsClosed(idle.client));
  SocketPair late = MakeSocketPair();
  server->Adopt(std::move(late.server));
  EXPECT_TRUE(IsClosed(late.client)) << "after the shutdown";
}

TEST_F(AdoptTest, MayRaceWithAShutdown) {
  Start();
  std::vector<UniqueFd> clients;
  std::thread giver([this, &clients] {
    for (int i = 0; i < 200; ++i) {
      SocketPair pair = MakeSocketPair();
      server->Adopt(std::move(pair.server));
      clients.push_back(std::move(pair.client));
    }
  });
  server->Shutdown(absl::Now());
  giver.join();
  for (const UniqueFd& client : clients) EXPECT_TRUE(IsClosed(client));
}

}  // namespace
}  // namespace infercache::rpc
