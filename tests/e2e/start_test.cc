// Starting: what is announced, and what refuses to start beside what.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tests/build_kind.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/test_client.h"
#include "tests/rpc/test_certificates.h"

namespace infercache::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kUnavailable = 69;
constexpr int kOsError = 71;

// Arguments of a second daemon that may collide only where a test wants it to.
std::vector<std::string> Second(std::vector<std::string> arguments) {
  std::vector<std::string> all = {"--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0",
                                  "--socket=", "--capacity=16MiB"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return all;
}

TEST(Start, TheAnnouncedAddressesServe) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_THAT((*daemon)->grpc_address(), Not(HasSubstr(":0")));
  for (const std::string& address :
       {(*daemon)->grpc_address(), "unix:" + (*daemon)->socket_path()}) {
    TestClient client(address);
    const grpc::Status put = client.Put("default", address, "value");
    EXPECT_TRUE(put.ok()) << address << ": " << put.error_message();
    bool found = false;
    std::string value;
    EXPECT_TRUE(client.Get("default", address, found, value).ok());
    EXPECT_TRUE(found);
    EXPECT_EQ(value, "value");
  }
  TestClient client((*daemon)->grpc_address());
  v1::GetInfoResponse info;
  ASSERT_TRUE(client.Info(info).ok());
  EXPECT_EQ(info.grpc_address(), (*daemon)->grpc_address() + ",unix:" + (*daemon)->socket_path());
  EXPECT_EQ(info.http_address(), (*daemon)->http_address());
  EXPECT_EQ(info.socket_path(), (*daemon)->socket_path());
  EXPECT_EQ(info.pid(), static_cast<uint32_t>((*daemon)->pid()));
  EXPECT_EQ(info.capacity_bytes(), uint64_t{64} << 20);
  EXPECT_EQ(info.arena_pages(), "auto");
  EXPECT_FALSE(info.lock_memory());
  EXPECT_EQ((*daemon)->Stop(), 0);
}

TEST(Start, ADefaultDaemonHasRoomForMoreNamespaces) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient client("unix:" + (*daemon)->socket_path());
  v1::CreateNamespaceRequest request;
  request.mutable_spec()->set_name("more");
  request.mutable_spec()->set_quota_bytes(uint64_t{16} << 20);
  request.mutable_spec()->set_grpc_open(true);
  v1::CreateNamespaceResponse response;
  const grpc::Status status =
      client.admin().CreateNamespace(client.Context().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(client.Put("more", "k", "v").ok());
}

TEST(Start, JsonLogLinesAreJson) {
  auto daemon = DaemonProcess::Start({.arguments = {"--log-format=json", "--log-level=debug"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ((*daemon)->Stop(), 0);
  std::istringstream lines((*daemon)->log());
  std::string line;
  bool ready = false;
  int count = 0;
  while (std::getline(lines, line)) {
    const auto object = nlohmann::json::parse(line, nullptr, false);
    ASSERT_FALSE(object.is_discarded()) << line;
    EXPECT_TRUE(object.contains("ts") && object.contains("level") && object.contains("msg"));
    if (object.at("msg") == "ready") {
      ready = true;
      EXPECT_EQ(object.at("grpc"), (*daemon)->grpc_address());
      EXPECT_EQ(object.at("http"), (*daemon)->http_address());
      EXPECT_EQ(object.at("socket"), (*daemon)->socket_path());
    }
    ++count;
  }
  EXPECT_TRUE(ready);
  EXPECT_GE(count, 4) << "namespace, ready, draining, stopped";
}

TEST(Start, ATakenPortIsRefused) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto grpc = RunDaemonToEnd(Second({"--grpc-listen=" + (*daemon)->grpc_address()}));
  ASSERT_TRUE(grpc.ok()) << grpc.status();
  EXPECT_EQ(grpc->exit_code, kUnavailable);
  EXPECT_THAT(grpc->err, HasSubstr((*daemon)->grpc_address()));
  EXPECT_THAT(grpc->err, Not(HasSubstr("namespace created"))) << "before it takes memory";
  const auto http = RunDaemonToEnd(Second({"--http-listen=" + (*daemon)->http_address()}));
  ASSERT_TRUE(http.ok()) << http.status();
  EXPECT_EQ(http->exit_code, kUnavailable);
  EXPECT_THAT(http->err, HasSubstr((*daemon)->http_address()));
}

TEST(Start, ALiveSocketIsRefusedAndGoesOnServing) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto run = RunDaemonToEnd(Second({"--socket=" + (*daemon)->socket_path()}));
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kUnavailable);
  EXPECT_THAT(run->err, HasSubstr((*daemon)->socket_path()));
  TestClient client("unix:" + (*daemon)->socket_path());
  EXPECT_TRUE(client.Put("default", "k", "v").ok());
}

TEST(Start, ASocketThatADeadDaemonLeftIsReplaced) {
  const TemporaryDirectory directory;
  const std::string socket = directory.path() + "/s";
  auto first = DaemonProcess::Start({.arguments = {"--socket=" + socket}});
  ASSERT_TRUE(first.ok()) << first.status();
  (*first)->Signal(SIGKILL);
  EXPECT_EQ((*first)->Wait(), 128 + SIGKILL);
  EXPECT_EQ(access(socket.c_str(), F_OK), 0) << "it is left behind";
  auto second = DaemonProcess::Start({.arguments = {"--socket=" + socket}});
  ASSERT_TRUE(second.ok()) << second.status();
  TestClient client("unix:" + socket);
  EXPECT_TRUE(client.Put("default", "k", "v").ok());
}

TEST(Start, AFileThatIsNoSocketIsNeverReplaced) {
  const TemporaryDirectory directory;
  const std::string file = directory.File("precious", "data");
  const auto run = RunDaemonToEnd(Second({"--socket=" + file}));
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kUnavailable);
  EXPECT_THAT(run->err, HasSubstr(file));
  struct stat status;
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  EXPECT_TRUE(S_ISREG(status.st_mode));
  EXPECT_EQ(status.st_size, 4);
}

TEST(Start, TheSocketHasItsMode) {
  auto daemon = DaemonProcess::Start({.arguments = {"--socket-mode=0606"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  struct stat status;
  ASSERT_EQ(stat((*daemon)->socket_path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0606u);
}

TEST(Start, WithoutSocketAndHttpItServesGrpc) {
  auto daemon = DaemonProcess::Start({.arguments = {"--socket=", "--http-listen="}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ((*daemon)->socket_path(), "");
  EXPECT_EQ((*daemon)->http_address(), "");
  TestClient client((*daemon)->grpc_address());
  EXPECT_TRUE(client.Put("default", "k", "v").ok());
}

TEST(Start, OnTheSocketAloneItServesToo) {
  auto daemon = DaemonProcess::Start({.arguments = {"--grpc-listen="}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ((*daemon)->grpc_address(), "");
  TestClient client("unix:" + (*daemon)->socket_path());
  EXPECT_TRUE(client.Put("default", "k", "v").ok());
}

TEST(Start, AnOpenAddressWithoutTlsIsRefused) {
  const auto refused = RunDaemonToEnd(Second({"--grpc-listen=0.0.0.0:0"}));
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->exit_code, kConfigError);
  EXPECT_THAT(refused->err, HasSubstr("0.0.0.0:0\" is not loopback and there is no TLS"));
  auto permitted =
      DaemonProcess::Start({.arguments = {"--grpc-listen=0.0.0.0:0", "--insecure-listen"}});
  EXPECT_TRUE(permitted.ok()) << permitted.status();
}

TEST(Start, TlsFilesThatHoldNoPemAreAConfigurationError) {
  const TemporaryDirectory directory;
  const std::string junk = directory.File("junk.pem", "not a certificate\n");
  const auto run = RunDaemonToEnd(Second({"--tls-cert-file=" + junk, "--tls-key-file=" + junk}));
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kConfigError) << run->err;
}

TEST(Start, AKeyOfAnotherCertificateIsFoundBeforeMemoryIsTaken) {
  const TemporaryDirectory directory;
  const std::string cert = "--tls-cert-file=" + directory.File("c.pem", rpc::kServerCertificate);
  const std::string key = "--tls-key-file=" + directory.File("k.pem", rpc::kWorkerKey);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{cert, key}, {cert, key, "--check-config"}}) {
    const auto run = RunDaemonToEnd(Second(arguments));
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->exit_code, kConfigError) << run->err;
    EXPECT_THAT(run->err, HasSubstr("does not belong to the certificate"));
    EXPECT_THAT(run->err, Not(HasSubstr("namespace created")));
  }
}

TEST(Start, TlsServesItsClients) {
  const TemporaryDirectory directory;
  auto daemon = DaemonProcess::Start(
      {.arguments = {"--tls-cert-file=" + directory.File("c.pem", rpc::kServerCertificate),
                     "--tls-key-file=" + directory.File("k.pem", rpc::kServerKey)}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto exists = [&](const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    const auto cache =
        v1::Cache::NewStub(grpc::CreateChannel((*daemon)->grpc_address(), credentials));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::ExistsRequest request;
    request.add_keys("k");
    v1::ExistsResponse response;
    return cache->Exists(&context, request, &response);
  };
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = rpc::kTestCa;
  const grpc::Status served = exists(grpc::SslCredentials(ssl));
  EXPECT_TRUE(served.ok()) << served.error_message();
  EXPECT_EQ(exists(grpc::InsecureChannelCredentials()).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(Start, SystemdIsTold) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/notify";
  const UniqueFd inbox(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(inbox.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  auto daemon = DaemonProcess::Start({.environment = {{"NOTIFY_SOCKET", path}}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto next = [&inbox] {
    pollfd readable = {.fd = inbox.get(), .events = POLLIN, .revents = 0};
    char text[1024];
    if (poll(&readable, 1, 20'000) != 1) return std::string("nothing came");
    return std::string(text, std::max<ssize_t>(recv(inbox.get(), text, sizeof(text), 0), 0));
  };
  EXPECT_THAT(next(), HasSubstr("READY=1\nSTATUS=serving on " + (*daemon)->grpc_address()));
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_THAT(next(), HasSubstr("STOPPING=1"));
}

TEST(Start, APidFileHoldsThePidWhileItRuns) {
  const TemporaryDirectory directory;
  const std::string file = directory.path() + "/pid";
  auto daemon = DaemonProcess::Start({.arguments = {"--pid-file=" + file}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  std::ifstream stream(file);
  pid_t pid = 0;
  stream >> pid;
  EXPECT_EQ(pid, (*daemon)->pid());
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_NE(access(file.c_str(), F_OK), 0);

  const auto run = RunDaemonToEnd(Second({"--pid-file=" + directory.path() + "/no/dir/pid"}));
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kOsError);
  EXPECT_THAT(run->err, HasSubstr("/no/dir/pid"));
}

TEST(Start, MemoryThatTheSystemDoesNotHaveIsAnOsError) {
  if (kAddressSanitizer) {
    GTEST_SKIP() << "AddressSanitizer itself needs more address space than this test leaves";
  }
  // The limit of mappings stands for a machine without enough memory.
  const auto run = RunToEnd("/bin/sh", {"-c",
                                        "ulimit -v 2000000; exec \"$0\" --grpc-listen=127.0.0.1:0 "
                                        "--http-listen= --socket= --capacity=8GiB",
                                        DaemonBinary()});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kOsError) << run->err;
  EXPECT_THAT(run->err, HasSubstr("namespace \"default\""));
}

}  // namespace
}  // namespace infercache::e2e
