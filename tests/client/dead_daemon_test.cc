// Daemons that are not there: fast misses, the breaker, and coming back.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/src/admin_client.h"
#include "common/unique_fd.h"
#include "tests/client/client_testing.h"
#include "tests/client/fake_daemon.h"

namespace infercache {
namespace {

constexpr absl::Duration kFast = absl::Seconds(2);

std::string TempSocket(const char* name) {
  return absl::StrCat("grpc+unix:", testing::TempDir(), "/infercache-", getpid(), "-", name,
                      ".sock");
}

Answer Miss(const Asked& asked) {
  if (asked.method == "Check") return {.messages = {"\x08\x01"}};
  v1::GetResponse response;
  response.add_results();
  return Answer::Of(response);
}

TEST(DeadDaemon, EveryCallFailsFastWithAStatus) {
  auto client = ConnectOrDie(
      {.endpoint = TempSocket("nobody"), .deadline = absl::Minutes(1), .breaker_failures = 0});
  const absl::Time start = absl::Now();
  const std::string_view key = "k";
  const auto keys = std::span(&key, 1);
  std::string buffer(8, '.');
  EXPECT_TRUE(absl::IsUnavailable(client->Get("k").status));
  EXPECT_TRUE(
      absl::IsUnavailable(client->GetInto("k", std::as_writable_bytes(std::span(buffer))).status));
  const PutResult put = client->Put(Item("k", "v"));
  EXPECT_EQ(put.outcome, PutOutcome::kRefused);
  EXPECT_TRUE(absl::IsUnavailable(put.status));
  EXPECT_TRUE(absl::IsUnavailable(client->Match(keys).status));
  EXPECT_TRUE(absl::IsUnavailable(client->Exists(keys).status));
  EXPECT_TRUE(absl::IsUnavailable(client->Delete(keys).status));
  EXPECT_TRUE(absl::IsUnavailable(client->Touch(keys).status));
  EXPECT_TRUE(absl::IsUnavailable(client->List("").status));
  EXPECT_TRUE(absl::IsUnavailable(client->Ping()));
  EXPECT_LT(absl::Now() - start, kFast);
}

TEST(DeadDaemon, KeepsNobodyFromComputing) {
  for (const char* lane : {"grpc+unix:", "unix:"}) {
    auto client = ConnectOrDie(
        {.endpoint = absl::StrCat(lane, testing::TempDir(), "/infercache-", getpid(), "-none.sock"),
         .deadline = absl::Minutes(1)});
    const absl::Time start = absl::Now();
    const std::vector<std::string_view> keys = {"a", "b", "c"};
    const auto results = client->GetOrCompute(keys, [](ComputeSlot& slot) {
      const auto room = slot.Allocate(5);
      if (room.ok()) std::fill(room->begin(), room->end(), std::byte{'x'});
      return room.status();
    });
    for (const ComputeResult& result : results) {
      ASSERT_TRUE(result.object.has_value()) << result.status;
      EXPECT_EQ(result.object->bytes().size(), 5u);
      EXPECT_EQ(result.object->parts().size(), 1u);
      EXPECT_TRUE(result.computed);
      EXPECT_TRUE(absl::IsUnavailable(result.stored)) << result.stored;
    }
    EXPECT_LT(absl::Now() - start, kFast);
  }
}

TEST(DeadDaemon, ALargeBatchStopsAtTheFirstFailure) {
  auto client = ConnectOrDie({.endpoint = TempSocket("nobody"),
                              .deadline = absl::Minutes(1),
                              .max_unary_bytes = 1,
                              .breaker_failures = 0});
  const std::vector<PutItem> items(5000, Item("k", "streamed"));
  const absl::Time start = absl::Now();
  for (const PutResult& result : client->Put(items)) {
    ASSERT_TRUE(absl::IsUnavailable(result.status)) << result.status;
  }
  EXPECT_LT(absl::Now() - start, kFast);
}

// Accepts connections into its backlog and never says a word.
TEST(DeadDaemon, ASocketThatNobodyReadsCostsOneDeadline) {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener.get(), 8), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  auto client = ConnectOrDie({.endpoint = absl::StrCat("127.0.0.1:", ntohs(address.sin_port))});
  const absl::Time start = absl::Now();
  const GetResult got = client->Get("k", {.deadline = absl::Milliseconds(300)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(got.status) || absl::IsUnavailable(got.status))
      << got.status;
  EXPECT_LT(absl::Now() - start, kFast);
}

bool RefusedWithoutIo(Client& client) {
  return client.Get("k").status.message().find("not asked again") != absl::string_view::npos;
}

TEST(Breaker, OpensAfterFailuresInARowAndProbesByTheClock) {
  std::atomic<int64_t> seconds{0};
  const std::string socket = TempSocket("breaker");
  auto client = ConnectOrDie({.endpoint = socket,
                              .breaker_failures = 3,
                              .breaker_probe_interval = absl::Seconds(1),
                              .clock = [&] { return absl::FromUnixSeconds(seconds); }});
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(RefusedWithoutIo(*client)) << i;
  EXPECT_TRUE(RefusedWithoutIo(*client));

  FakeDaemon daemon(Miss, {}, socket.substr(5));
  EXPECT_TRUE(RefusedWithoutIo(*client)) << "the clock stands still: no probe yet";
  EXPECT_EQ(daemon.calls(), 0);
  seconds = 1;
  EXPECT_TRUE(RefusedWithoutIo(*client)) << "starts the probe, does not wait for it";
  EXPECT_TRUE(Eventually([&] { return client->Get("k").status.ok(); }));
}

TEST(Breaker, PingAsksAnywayAndCloses) {
  const std::string socket = TempSocket("ping");
  auto client = ConnectOrDie(
      {.endpoint = socket, .breaker_failures = 1, .breaker_probe_interval = absl::Hours(1)});
  EXPECT_FALSE(client->Get("k").status.ok());
  EXPECT_TRUE(RefusedWithoutIo(*client));
  FakeDaemon daemon(Miss, {}, socket.substr(5));
  EXPECT_TRUE(Eventually([&] { return client->Ping().ok(); }));
  EXPECT_TRUE(client->Get("k").status.ok());
}

TEST(Breaker, RefusalsOfALivingDaemonDoNotOpenIt) {
  std::atomic<int> code{0};
  FakeDaemon daemon([&](const Asked&) {
    return Answer{.status = {static_cast<grpc::StatusCode>(code.load()), "no", "details"}};
  });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(), .breaker_failures = 1});
  for (const grpc::StatusCode refusal :
       {grpc::StatusCode::RESOURCE_EXHAUSTED, grpc::StatusCode::INVALID_ARGUMENT,
        grpc::StatusCode::INTERNAL, grpc::StatusCode::UNAVAILABLE}) {
    code = refusal;
    for (int i = 0; i < 5; ++i) {
      const int before = daemon.calls();
      const absl::Status status = client->Get("k").status;
      EXPECT_EQ(status.raw_code(), refusal);
      EXPECT_EQ(status.message(), "no");
      // A daemon at a limit is asked a few times.
      EXPECT_GT(daemon.calls(), before);
    }
  }
}

// They would else refuse the calls of patient callers too.
TEST(Breaker, ImpatientCallersDoNotOpenIt) {
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(), .breaker_failures = 1});
  for (int i = 0; i < 5; ++i) {
    const GetResult got = client->Get("k", {.deadline = absl::Milliseconds(20)});
    EXPECT_TRUE(absl::IsDeadlineExceeded(got.status)) << got.status;
  }
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(client->Get("k", {.deadline = absl::Milliseconds(250)}).status));
  EXPECT_TRUE(RefusedWithoutIo(*client));
}

// With the breaker open, a daemon that hangs costs its callers nothing: only probes wait for it.
TEST(Breaker, AHangingDaemonDoesNotSlowRefusals) {
  FakeDaemon daemon([](const Asked&) { return Answer::Never(); });
  auto client = ConnectOrDie({.endpoint = daemon.endpoint(),
                              .deadline = absl::Milliseconds(250),
                              .breaker_failures = 1,
                              .breaker_probe_interval = absl::ZeroDuration()});
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Get("k").status));
  const absl::Time start = absl::Now();
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(RefusedWithoutIo(*client));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
  EXPECT_LE(daemon.calls(), 2) << "one call and one probe";
}

TEST(AdminClient, TellsSilenceFromAnswers) {
  auto nobody = *AdminClient::Connect({.endpoint = TempSocket("admin")});
  const absl::Status dead = nobody->GetInfo().status();
  EXPECT_TRUE(IsUnreachable(dead)) << dead;
  EXPECT_TRUE(IsUnreachable(nobody->CheckHealth()));

  std::atomic<char> health{1};
  FakeDaemon daemon([&](const Asked& asked) {
    if (asked.method == "Check") return Answer{.messages = {{'\x08', health.load()}}};
    return Answer{.status = {grpc::StatusCode::NOT_FOUND, "namespace 'x'", "details"}};
  });
  auto admin = *AdminClient::Connect({.endpoint = daemon.endpoint()});
  EXPECT_EQ(admin->endpoint(), daemon.endpoint());
  EXPECT_TRUE(admin->CheckHealth().ok());
  health = 2;
  const absl::Status draining = admin->CheckHealth("any.service");
  EXPECT_TRUE(absl::IsUnavailable(draining)) << draining;
  EXPECT_FALSE(IsUnreachable(draining)) << draining;
  const absl::Status unknown = admin->Flush("x", "").status();
  EXPECT_TRUE(absl::IsNotFound(unknown)) << unknown;
  EXPECT_EQ(unknown.message(), "namespace 'x'");
}

}  // namespace
}  // namespace infercache
