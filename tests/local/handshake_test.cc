#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>

#include "absl/time/clock.h"
#include "common/limits.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

class LocalHandshake : public LocalFixture {
 protected:
  LocalHandshake() : ns_(Create("default")) {}

  void ExpectRefused(const Opening& opening, absl::StatusCode code, const std::string& says) {
    RawClient client = Connect();
    const absl::Status status = client.Open(opening);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
    EXPECT_TRUE(client.AwaitClose().ok()) << "a refused connection stays open";
  }

  store::NamespaceVerbs ns_;
};

TEST_F(LocalHandshake, AWelcomeSaysWhatThereIs) {
  Serve({.reservation_timeout = absl::Seconds(7), .pin_slots = 100, .pin_budget_divisor = 8});
  Worker worker = Open({.namespace_name = ""});
  const v1::Welcome& welcome = worker.welcome();
  EXPECT_EQ(welcome.version(), 1u);
  EXPECT_EQ(welcome.daemon_version(), "test");
  EXPECT_NE(welcome.session(), 0u);
  EXPECT_EQ(welcome.slot_capacity(), kMaxPinSlots);
  EXPECT_EQ(welcome.slot_limit(), 100u);
  EXPECT_EQ(welcome.pin_budget_bytes(), kMiB / 8);
  EXPECT_EQ(welcome.chunk_count() * welcome.chunk_bytes(), kMiB);
  EXPECT_EQ(welcome.put_access(), v1::Welcome::PUT_ACCESS_IN_PLACE);
  EXPECT_EQ(welcome.reservation_timeout_ms(), 7'000u);
  EXPECT_FALSE(welcome.checksums());
  EXPECT_NE(welcome.page_kind(), "");
  EXPECT_EQ(server_->stats().sessions, 1u);
  EXPECT_EQ(server_->stats().sessions_without_pidfd, 0u);
}

TEST_F(LocalHandshake, TheIndexCannotBeWritten) {
  Serve();
  Worker worker = Open();
  EXPECT_FALSE(SharedMapping::Map(worker.raw().index_descriptor().get(), 4096, true).ok());
}

// Each had a line of its own: thousands a second.
TEST_F(LocalHandshake, AFloodOfRefusalsIsOneLineASecond) {
  Serve();
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 200; ++i) {
    EXPECT_FALSE(TryOpen({.namespace_name = "nowhere"}).ok());
  }
  const auto lines = std::ranges::count(Log(), '\n');
  EXPECT_GE(lines, 1);
  EXPECT_LE(lines, 2 + absl::ToInt64Seconds(absl::Now() - begin));
  EXPECT_EQ(server_->stats().sessions_refused, 200u);
}

TEST_F(LocalHandshake, RefusalsSayWhy) {
  Create({.name = "strict", .quota_bytes = kMiB, .required_fingerprint = {{"model", "llama"}}});
  Serve();
  ExpectRefused({.version = 2}, absl::StatusCode::kFailedPrecondition, "version 2");
  ExpectRefused({.version = 2}, absl::StatusCode::kFailedPrecondition, "daemon version 1");
  ExpectRefused({.version = 0}, absl::StatusCode::kFailedPrecondition, "version 0");
  ExpectRefused({.namespace_name = "nobody"}, absl::StatusCode::kNotFound, "nobody");
  ExpectRefused({.namespace_name = std::string(1'000, 'n')}, absl::StatusCode::kNotFound, "64");
  ExpectRefused({.namespace_name = "strict"}, absl::StatusCode::kFailedPrecondition, "model");
  ExpectRefused({.namespace_name = "strict", .fingerprint = {{"model", "qwen"}}},
                absl::StatusCode::kFailedPrecondition, "model");
  ExpectRefused({.fingerprint = {{"", "x"}}}, absl::StatusCode::kInvalidArgument, "fingerprint");
  Open({.namespace_name = "strict", .fingerprint = {{"model", "llama"}, {"more", "x"}}});
  EXPECT_EQ(server_->stats().sessions_refused, 8u);
  EXPECT_EQ(server_->stats().sessions_opened, 1u);
}

TEST_F(LocalHandshake, AClientsNameHasALimit) {
  Serve();
  Open({.client = std::string(kMaxClientNameBytes, 'c')});
  ExpectRefused({.client = std::string(kMaxClientNameBytes + 1, 'c')},
                absl::StatusCode::kInvalidArgument, "128");
}

TEST_F(LocalHandshake, SessionsHaveALimit) {
  Serve({.max_sessions = 2});
  Worker a = Open();
  {
    Worker b = Open();
    ExpectRefused({}, absl::StatusCode::kResourceExhausted, "2 sessions");
  }
  ExpectEnds(EndReason::kClosed);
  Open();
}

TEST_F(LocalHandshake, WhoSaysNothingIsDisconnected) {
  Serve({.handshake_timeout = absl::Milliseconds(1)});
  RawClient silent = Connect();
  RawClient half = Connect();
  ASSERT_TRUE(half.SendBytes("PR").ok());
  RawClient slow = Connect();
  ASSERT_TRUE(slow.SendBytes(RawClient::EncodeFrame("x").substr(0, 5)).ok());
  EXPECT_TRUE(silent.AwaitClose().ok());
  EXPECT_TRUE(half.AwaitClose().ok());
  EXPECT_TRUE(slow.AwaitClose().ok());
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kSlow) == 3; }));
}

// One user's connections that said nothing shut everybody out for as long as the handshake may
// take.
TEST_F(LocalHandshake, SilentConnectionsMakeRoomForWhoeverComes) {
  Serve({.max_sessions = 1});
  std::vector<RawClient> silent;
  for (uint32_t i = 0; i < kMaxConnectionsBeyondSessions + 50; ++i) silent.push_back(Connect());
  Worker worker = Open();
  worker.Ping();
  EXPECT_TRUE(silent.front().AwaitClose().ok()) << "the oldest goes first";
  EXPECT_GT(Ended(EndReason::kSlow), 0u);
}

TEST_F(LocalHandshake, AFrameBeforeTheSessionIsNoLargerThanAHello) {
  Serve();
  RawClient client = Connect();
  (void)client.SendFrame(std::string(kMaxHelloBytes + 1, 'x'));
  EXPECT_TRUE(client.AwaitClose().ok());
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kProtocol) == 1; }));
  EXPECT_THAT(Log(), HasSubstr("the limit is 131072"));

  FingerprintEntries largest;
  for (size_t i = 0; i < kMaxFingerprintEntries; ++i) {
    std::string key = std::to_string(i);
    key.resize(kMaxFingerprintKeyBytes, 'k');
    largest.push_back({key, std::string(kMaxFingerprintValueBytes, 'v')});
  }
  Open({.namespace_name = "default",
        .fingerprint = largest,
        .client = std::string(kMaxClientNameBytes, 'c')});
}

TEST_F(LocalHandshake, TheFirstRequestIsAHello) {
  Serve();
  RawClient client = Connect();
  v1::LocalRequest ping;
  ping.set_id(1);
  ping.mutable_ping();
  ASSERT_TRUE(client.Send(ping).ok());
  EXPECT_TRUE(client.AwaitClose().ok());
}

// The log told of it only once a session was open, and no counter did.
TEST_F(LocalHandshake, WhatBreaksTheProtocolBeforeHelloIsLoggedAndCounted) {
  Serve();
  RawClient garbage = Connect(), early = Connect();
  ASSERT_TRUE(garbage.SendFrame("nonsense").ok());
  EXPECT_TRUE(garbage.AwaitClose().ok());
  v1::LocalRequest ping;
  ping.set_id(1);
  ping.mutable_ping();
  ASSERT_TRUE(early.Send(ping).ok());
  EXPECT_TRUE(early.AwaitClose().ok());
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kProtocol) == 2; }));
  EXPECT_THAT(Log(), HasSubstr("ended without a session: protocol: a frame that is no request"));
  EXPECT_THAT(Log(), HasSubstr("not a Hello"));
  EXPECT_EQ(server_->stats().sessions_opened, 0u);
}

TEST_F(LocalHandshake, ASecondHelloEndsTheSession) {
  Serve();
  Worker worker = Open();
  EXPECT_EQ(worker.raw().Ask(RawClient::MakeHello({})).status().code(),
            absl::StatusCode::kUnavailable);
  ExpectEnds(EndReason::kProtocol);
  EXPECT_THAT(Log(), HasSubstr("a second Hello"));
}

TEST_F(LocalHandshake, AHelloMayComeByteByByte) {
  Serve();
  RawClient client = Connect();
  v1::LocalRequest hello = RawClient::MakeHello({});
  hello.set_id(9);
  for (const char byte : RawClient::EncodeFrame(hello.SerializeAsString())) {
    ASSERT_TRUE(client.SendBytes({&byte, 1}).ok());
  }
  const auto received = client.Receive();
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_TRUE(received->response.has_welcome());
}

// --- HTTP/2 ---

TEST_F(LocalHandshake, AConnectionThatSpeaksHttp2IsHandedOverUnread) {
  std::promise<UniqueFd> adopted;
  Serve({.adopt_http2 = [&](UniqueFd socket) { adopted.set_value(std::move(socket)); }});
  RawClient client = Connect();
  constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  ASSERT_TRUE(client.SendBytes(kPreface).ok());
  const UniqueFd socket = adopted.get_future().get();
  EXPECT_NE(fcntl(socket.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(fcntl(socket.get(), F_GETFD) & FD_CLOEXEC, 0);
  char bytes[64];
  const ssize_t n = recv(socket.get(), bytes, sizeof bytes, 0);
  EXPECT_EQ(std::string_view(bytes, n > 0 ? n : 0), kPreface);
  EXPECT_EQ(send(socket.get(), "ok", 2, 0), 2);
  char answer[2];
  EXPECT_TRUE(Eventually([&] { return recv(client.socket(), answer, 2, 0) == 2; }));
  // It is no business of the lane any more.
  server_->Shutdown(absl::InfinitePast());
  EXPECT_EQ(send(socket.get(), "ok", 2, MSG_NOSIGNAL), 2);
}

TEST_F(LocalHandshake, ThePrefaceMayComeInPieces) {
  std::promise<UniqueFd> adopted;
  Serve({.adopt_http2 = [&](UniqueFd socket) { adopted.set_value(std::move(socket)); }});
  RawClient client = Connect();
  ASSERT_TRUE(client.SendBytes("PRI").ok());
  Open();  // the piece has been seen by now, or will be: both are right
  ASSERT_TRUE(client.SendBytes(" * HTTP/2.0\r\n").ok());
  EXPECT_TRUE(adopted.get_future().get().valid());
}

TEST_F(LocalHandshake, WithoutAnHttp2ServerSuchAConnectionIsClosed) {
  Serve();
  RawClient client = Connect();
  ASSERT_TRUE(client.SendBytes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").ok());
  EXPECT_TRUE(client.AwaitClose().ok());
}

// --- The socket file and the options ---

TEST_F(LocalHandshake, TheSocketFileHasItsMode) {
  Serve({.socket_mode = 0640});
  struct stat info;
  ASSERT_EQ(stat(socket_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST_F(LocalHandshake, ALiveSocketIsLeftAloneAndAStaleOneReplaced) {
  Serve();
  const auto second = LocalServer::Start({.socket_path = socket_path()}, *store_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
  Open();
  server_.reset();
  {
    const UniqueFd killed(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_storage address = {};
    address.ss_family = AF_UNIX;
    socket_path().copy(reinterpret_cast<char*>(&address) + sizeof(sa_family_t), 100);
    ASSERT_EQ(bind(killed.get(), reinterpret_cast<sockaddr*>(&address), 110), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(socket_path()));
  Serve();
  Open();
}

TEST_F(LocalHandshake, AFileThatIsNoSocketIsLeftAlone) {
  std::ofstream(socket_path()) << "precious";
  const auto server = LocalServer::Start({.socket_path = socket_path()}, *store_);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kFailedPrecondition) << server.status();
  EXPECT_THAT(std::string(server.status().message()), HasSubstr(socket_path()));
  EXPECT_TRUE(std::filesystem::is_regular_file(socket_path()));
}

TEST_F(LocalHandshake, OptionsHaveRanges) {
  const auto starts = [&](LocalOptions options) {
    if (options.socket_path.empty()) options.socket_path = socket_path();
    return LocalServer::Start(options, *store_).status().code();
  };
  EXPECT_EQ(starts({.socket_path = std::string(200, 'x')}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.socket_mode = 01000}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.threads = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.threads = kMaxLocalThreads + 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.max_sessions = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.pin_slots = kMaxPinSlots + 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.pin_budget_divisor = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.reservation_timeout = absl::ZeroDuration()}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.handshake_timeout = absl::InfiniteDuration()}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(starts({.threads = kMaxLocalThreads, .pin_slots = kMaxPinSlots}),
            absl::StatusCode::kOk);
}

}  // namespace
}  // namespace infercache::local
