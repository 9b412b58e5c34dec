#include "client/src/channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>

#include "client/src/status_conversion.h"
#include "common/unique_fd.h"

namespace infercache {
namespace {

TEST(ResolveEndpoint, TakesHostsAndSockets) {
  const auto target = [](const char* text) { return ResolveEndpoint(text)->target; };
  EXPECT_EQ(target("127.0.0.1:7400"), "dns:///127.0.0.1:7400");
  EXPECT_EQ(target("cache-0.cache:1"), "dns:///cache-0.cache:1");
  EXPECT_EQ(target("[::1]:65535"), "dns:///[::1]:65535");
  EXPECT_EQ(target("unix:/run/x.sock"), "unix:/run/x.sock");
  EXPECT_EQ(target("unix:///run/x.sock"), "unix:/run/x.sock");
  EXPECT_EQ(target("grpc+unix:/run/x.sock"), "unix:/run/x.sock");
}

TEST(ResolveEndpoint, NamesTheLane) {
  EXPECT_EQ(ResolveEndpoint("127.0.0.1:7400")->lane, Lane::kRemote);
  EXPECT_EQ(ResolveEndpoint("grpc+unix:/run/x.sock")->lane, Lane::kRemote);
  const auto local = ResolveEndpoint("unix:///run/x.sock");
  EXPECT_EQ(local->lane, Lane::kLocal);
  EXPECT_EQ(local->socket_path, "/run/x.sock");
}

TEST(ResolveEndpoint, KnowsWhatStaysOnTheHost) {
  for (const char* local : {"127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "unix:x"}) {
    EXPECT_TRUE(ResolveEndpoint(local)->local) << local;
  }
  for (const char* remote : {"10.0.0.1:1", "[::2]:1", "cache:1", "127.0.0.1.evil.example:1"}) {
    EXPECT_FALSE(ResolveEndpoint(remote)->local) << remote;
  }
}

TEST(ResolveEndpoint, RefusesWhatCannotWork) {
  for (const char* bad : {"127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "a:+1",
                          ":7400", "http://a:7400", "grpc+a:7400", "grpc+unix:", "a b:7400",
                          "[::1:7400", "[x]:1", "unix:", "::1:7400", "a:99999999999"}) {
    const auto endpoint = ResolveEndpoint(bad);
    ASSERT_TRUE(absl::IsInvalidArgument(endpoint.status())) << bad;
    EXPECT_NE(endpoint.status().message().find(bad), absl::string_view::npos) << bad;
  }
  EXPECT_TRUE(ResolveEndpoint("unix:" + std::string(107, 'x')).ok());
  EXPECT_FALSE(ResolveEndpoint("unix:" + std::string(108, 'x')).ok());
}

TEST(ResolveEndpoint, EmptyMeansEnvironmentThenDefault) {
  unsetenv("INFERCACHE_ENDPOINT");
  EXPECT_EQ(ResolveEndpoint("")->text, DefaultEndpoint(geteuid(), getenv("XDG_RUNTIME_DIR")));
  setenv("INFERCACHE_ENDPOINT", "unix:/tmp/e.sock", 1);
  EXPECT_EQ(ResolveEndpoint("")->target, "unix:/tmp/e.sock");
  EXPECT_EQ(ResolveEndpoint("127.0.0.1:9")->text, "127.0.0.1:9");
  setenv("INFERCACHE_ENDPOINT", "nonsense", 1);
  EXPECT_FALSE(ResolveEndpoint("").ok());
  unsetenv("INFERCACHE_ENDPOINT");
}

TEST(DefaultEndpoint, IsTheUsersSocketIfThereIsOne) {
  const std::string directory = testing::TempDir() + "/xdg-" + std::to_string(getpid());
  const std::string path = directory + "/infercache/infercached.sock";
  ASSERT_EQ(mkdir(directory.c_str(), 0700), 0);
  ASSERT_EQ(mkdir((directory + "/infercache").c_str(), 0700), 0);
  EXPECT_NE(DefaultEndpoint(1000, directory.c_str()), "unix:" + path);
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(DefaultEndpoint(1000, directory.c_str()), "unix:" + path);
  EXPECT_NE(DefaultEndpoint(0, directory.c_str()), "unix:" + path) << "root has the system's";
  unlink(path.c_str());
  EXPECT_EQ(rmdir((directory + "/infercache").c_str()), 0);
  EXPECT_EQ(rmdir(directory.c_str()), 0);
}

TEST(Connect, SendsTokensOnlyWhereNobodyListens) {
  const auto connect = [](const char* endpoint, const char* token) {
    return Client::Connect({.endpoint = endpoint, .bearer_token = token}).status();
  };
  EXPECT_TRUE(connect("127.0.0.1:1", "secret").ok());
  EXPECT_TRUE(connect("unix:/tmp/x", "secret").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(connect("10.0.0.1:1", "secret")));
  EXPECT_TRUE(connect("10.0.0.1:1", "").ok());
  EXPECT_TRUE(
      Client::Connect({.endpoint = "10.0.0.1:1", .bearer_token = "secret", .tls = TlsOptions{}})
          .ok());
  EXPECT_TRUE(absl::IsInvalidArgument(connect("127.0.0.1:1", "two\nlines")));
}

TEST(Connect, RefusesOptionsThatMakeNoSense) {
  const auto refused = [](ClientOptions options) {
    return absl::IsInvalidArgument(Client::Connect(std::move(options)).status());
  };
  EXPECT_TRUE(refused({.endpoint = "nonsense"}));
  EXPECT_TRUE(refused({.namespace_name = ""}));
  EXPECT_TRUE(refused({.namespace_name = "Upper"}));
  EXPECT_TRUE(refused({.namespace_name = std::string(65, 'n')}));
  EXPECT_FALSE(refused({.namespace_name = std::string(64, 'n')}));
  EXPECT_TRUE(refused({.fingerprint = {{"", "x"}}}));
  EXPECT_TRUE(refused({.fingerprint = {{"a", "x"}, {"a", "y"}}}));
  EXPECT_TRUE(refused({.deadline = absl::ZeroDuration()}));
  EXPECT_TRUE(refused({.max_unary_bytes = 0}));
  EXPECT_TRUE(refused({.breaker_failures = -1}));
  EXPECT_TRUE(refused({.tls = TlsOptions{.ca_pem = "not pem"}}));
  EXPECT_TRUE(refused({.tls = TlsOptions{.certificate_pem = "-----BEGIN CERTIFICATE-----\n"
                                                            "-----END CERTIFICATE-----\n"}}))
      << "a certificate without its key";
}

TEST(StatusConversion, TellsTheDaemonsWordFromSilence) {
  const absl::Status silence = FromGrpc({grpc::StatusCode::UNAVAILABLE, "connection refused"});
  EXPECT_TRUE(absl::IsUnavailable(silence));
  EXPECT_EQ(silence.message(), "connection refused");
  EXPECT_TRUE(IsUnreachable(silence));
  EXPECT_TRUE(IsUnreachable(FromGrpc({grpc::StatusCode::DEADLINE_EXCEEDED, ""})));
  EXPECT_FALSE(IsUnreachable(FromGrpc({grpc::StatusCode::UNAVAILABLE, "draining", "details"})));
  EXPECT_FALSE(IsUnreachable(FromGrpc({grpc::StatusCode::RESOURCE_EXHAUSTED, "full"})));
  EXPECT_FALSE(IsUnreachable(absl::OkStatus()));
  for (int code = 1; code <= 16; ++code) {
    EXPECT_EQ(FromGrpc({static_cast<grpc::StatusCode>(code), "m"}).raw_code(), code);
  }
  EXPECT_TRUE(absl::IsUnknown(FromGrpc({static_cast<grpc::StatusCode>(17), ""})));
  EXPECT_EQ(ErrorCodeFromWire(0), absl::StatusCode::kUnknown);
  EXPECT_EQ(ErrorCodeFromWire(-1), absl::StatusCode::kUnknown);
}

}  // namespace
}  // namespace infercache
