// Any bytes on a connection of the same-host lane, before and after its Hello: the daemon neither
// crashes nor keeps anything of a session that is over, and the frame walker of inline puts agrees
// with Protobuf.

#include <fuzzer/FuzzedDataProvider.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "infercache/v1/local.pb.h"
#include "server/local/connection.h"
#include "server/local/host.h"
#include "server/local/inline_put.h"
#include "tests/fuzz/require.h"

namespace infercache::local {
namespace {

constexpr uint64_t kQuota = 256 * 1024;

// A namespace and what connections share, made once: what a run leaves in it is the failure.
struct Daemon {
  Daemon() : store({.capacity_bytes = kQuota, .shards = 4, .background = false}, clock) {
    store::NamespaceSpec spec;
    spec.name = "default";
    spec.quota_bytes = kQuota;
    auto made = store.CreateNamespace(spec);
    REQUIRE(made.ok());
    ns = *std::move(made);
    host = std::make_unique<Host>(LocalOptions{.socket_path = "unused"}, store, context);
    host->forget = [this](uint64_t) { connection.reset(); };
  }

  ManualClock clock;
  store::Store store;
  std::shared_ptr<store::Namespace> ns;
  asio::io_context context;
  std::unique_ptr<Host> host;
  std::shared_ptr<Connection> connection;
};

std::string Frame(std::string_view body) {
  std::string frame(kFrameHeaderBytes, '\0');
  const auto size = static_cast<uint32_t>(body.size());
  for (int i = 0; i < 4; ++i) frame[i] = static_cast<char>(size >> (8 * i));
  return frame.append(body);
}

std::string Hello() {
  v1::LocalRequest request;
  request.set_id(1);
  request.mutable_hello()->set_version(kProtocolVersion);
  request.mutable_hello()->set_single_flight(true);
  return Frame(request.SerializeAsString());
}

void CheckWalker(std::string_view body) {
  InlinePutsView view;
  if (!FindInlinePuts(body, &view)) return;
  v1::LocalRequest request;
  REQUIRE(request.ParseFromArray(body.data(), static_cast<int>(body.size())));
  REQUIRE(request.id() == view.id && request.has_put_inline());
  REQUIRE(static_cast<size_t>(request.put_inline().items_size()) == view.items.size());
  for (size_t i = 0; i < view.items.size(); ++i) {
    const v1::PutInlineItem& item = request.put_inline().items(static_cast<int>(i));
    REQUIRE(item.value() == view.items[i].value);
    v1::ReserveItem object;
    REQUIRE(object.ParseFromArray(view.items[i].object.data(),
                                  static_cast<int>(view.items[i].object.size())));
    REQUIRE(object.key() == item.object().key() &&
            object.size_bytes() == item.object().size_bytes());
  }
}

// What the client sends next: well-formed frames of whatever the bytes say, or the bytes bare.
std::string NextPiece(FuzzedDataProvider& data) {
  const std::string body = data.ConsumeRandomLengthString(4096);
  if (data.ConsumeProbability<float>() < 0.1f) return body;
  CheckWalker(body);
  return Frame(body);
}

void Run(Daemon& daemon, FuzzedDataProvider& data) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  UniqueFd client(ends[0]);
  daemon.connection =
      std::make_shared<Connection>(*daemon.host, daemon.context, 1, UniqueFd(ends[1]));
  daemon.connection->Start();
  const auto send = [&](std::string_view bytes) {
    (void)!::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);  // it may have closed
    daemon.context.restart();
    daemon.context.poll();
    // Answers are read now and then.
    char buffer[4096];
    if (data.ConsumeBool()) (void)!read(client.get(), buffer, sizeof buffer);
  };
  if (data.ConsumeProbability<float>() < 0.9f) send(Hello());
  while (data.remaining_bytes() > 0) send(NextPiece(data));
  if (daemon.connection != nullptr) daemon.connection->Tick();
  daemon.context.restart();
  daemon.context.poll();
  client.Reset();
  if (daemon.connection != nullptr) daemon.connection->Close(EndReason::kShutdown);
  daemon.context.restart();
  daemon.context.poll();
  REQUIRE(daemon.connection == nullptr);
  daemon.host->quarantine.Clear();
  daemon.context.restart();
  daemon.context.poll();

  const store::NamespaceStats stats = daemon.ns->Stats();
  REQUIRE(stats.reservations == 0 && stats.pins == 0 && stats.client_pages == 0);
  REQUIRE(stats.reserved_bytes == 0 && stats.quarantined_bytes == 0);
  REQUIRE(stats.claims.claims == 0 && stats.claims.waiters == 0);
  REQUIRE(daemon.host->reservations.WaitUntilNone(std::chrono::steady_clock::now()));
  daemon.ns->Flush("");
  daemon.ns->Maintain();
  REQUIRE(daemon.ns->Stats().used_bytes == 0);
}

}  // namespace
}  // namespace infercache::local

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static auto& daemon = *new infercache::local::Daemon();
  FuzzedDataProvider data(bytes, size);
  infercache::local::Run(daemon, data);
  return 0;
}
