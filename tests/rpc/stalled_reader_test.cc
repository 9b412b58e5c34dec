// Clients that stop reading in the middle of a response: what they hold is bounded, does not get in
// the way of puts, and comes back in time.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "common/limits.h"
#include "tests/rpc/raw_http2_client.h"
#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

constexpr uint64_t kValueBytes = kMiB;
constexpr uint64_t kBound = 16 * kMiB;
// No further response of the object fits: value, head and description.
constexpr uint64_t kFull = kBound - kValueBytes - 1024;
constexpr int kReaders = 64;
constexpr absl::Duration kMostTime = absl::Seconds(20);

class StalledReaderTest : public RpcTest {
 protected:
  StalledReaderTest() {
    capacity_bytes = 128 * kMiB;
    default_namespace.quota_bytes = 64 * kMiB;
    options.max_pinned_bytes = kBound;
    options.max_pinned_bytes_per_connection = 2 * kMiB;
    socket_path_ = ::testing::TempDir() + "stalled" + std::to_string(getpid()) + ".sock";
    options.listen = {"127.0.0.1:0", "unix:" + socket_path_};
  }

  int Port() const {
    const std::string& address = server->addresses()[0];
    return std::stoi(address.substr(address.rfind(':') + 1));
  }

  // A mix of everything: both kinds of stopping, both methods, both kinds of socket.
  void StartReaders() {
    const std::string get = MakeGet({"object"}).SerializeAsString();
    v1::GetStreamRequest stream;
    stream.set_key("object");
    for (int i = 0; i < kReaders; ++i) {
      readers_.push_back(
          std::make_unique<RawHttp2Client>(i % 4 < 2 ? socket_path_ : "", Port(),
                                           i % 2 == 0 ? RawHttp2Client::Reading::kNothing
                                                      : RawHttp2Client::Reading::kOnlyTransport));
      for (int call = 0; call < 3; ++call) {
        if (i % 8 < 4) {
          readers_.back()->Call("/infercache.v1.Cache/Get", get);
        } else {
          readers_.back()->Call("/infercache.v1.Cache/GetStream", stream.SerializeAsString());
        }
      }
    }
  }

  void Touch(const std::string& key) {
    grpc::ClientContext context;
    v1::TouchRequest request;
    request.add_keys(key);
    v1::TouchResponse response;
    const grpc::Status status = cache->Touch(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.present(), "\1") << "evicted while it is read";
  }

  std::string socket_path_;
  std::vector<std::unique_ptr<RawHttp2Client>> readers_;
};

TEST_F(StalledReaderTest, HoldNoMoreThanTheBoundAndGiveItBackInTime) {
  Start();
  Store("object", Pattern(kValueBytes, 1));
  StartReaders();
  ASSERT_TRUE(Eventually([this] { return server->stats().pinned_response_bytes >= kFull; }))
      << server->stats().pinned_response_bytes;
  const absl::Time stalled_at = absl::Now();

  uint64_t most = 0;
  int puts = 0;
  while (server->stats().pinned_response_bytes > 0 && absl::Now() < stalled_at + kMostTime) {
    // Else it would be the coldest once nobody reads it any more, and the next put might evict it.
    Touch("object");
    most = std::max(most, server->stats().pinned_response_bytes);
    const std::string key = "put" + std::to_string(puts++ % 100);
    v1::PutRequest put = MakePut(key, Pattern(kValueBytes, puts));
    put.mutable_items(0)->set_overwrite(true);
    v1::PutResponse response;
    const absl::Time began = absl::Now();
    const grpc::Status status = Put(put, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.results(0).outcome(), v1::PUT_OUTCOME_STORED);
    ASSERT_LT(absl::Now() - began, absl::Seconds(5)) << "a put waited for a reader";
  }
  const absl::Duration took = absl::Now() - stalled_at;
  EXPECT_LE(most, kBound);
  EXPECT_LT(took, kMostTime);
  EXPECT_TRUE(IsIdle());
  EXPECT_GT(server->stats().stalled_disconnects, 0u);
  RecordProperty("released_after_ms", absl::ToInt64Milliseconds(took));
  RecordProperty("puts_meanwhile", puts);
  std::cout << "released after " << took << ", " << puts << " puts of 1 MiB meanwhile\n";
  EXPECT_EQ(Load("object"), Pattern(kValueBytes, 1)) << "the object was evicted or is damaged";
}

// 4,096 equal parts take some stored bytes, and a quarter of a million in an answer.
TEST_F(StalledReaderTest, HoldWhatDescribesObjectsAsWellAsValues) {
  constexpr uint64_t kDescriptionBytes = 250'000;
  Start();
  v1::PutRequest put = MakePut("k", "v");
  for (size_t i = 1; i < kMaxParts; ++i) {
    v1::PartSpec& part = *put.mutable_items(0)->add_parts();
    part.set_dtype(v1::DATA_TYPE_UINT8);
    part.add_shape(0);
    for (size_t k = 1; k < kMaxRank; ++k) part.add_shape(uint64_t{1} << 60);
  }
  put.mutable_items(0)->add_parts()->set_size_bytes(1);
  const grpc::Status stored = Put(put);
  ASSERT_TRUE(stored.ok()) << stored.error_message();
  v1::GetStreamRequest stream;
  stream.set_key("k");
  const std::pair<std::string, std::string> calls[] = {
      {"Get", MakeGet({"k"}).SerializeAsString()},
      {"GetStream", stream.SerializeAsString()},
      {"List", v1::ListRequest().SerializeAsString()}};
  std::vector<std::unique_ptr<RawHttp2Client>> clients;
  for (const auto& [method, request] : calls) {
    const uint64_t before = server->stats().pinned_response_bytes;
    clients.push_back(
        std::make_unique<RawHttp2Client>("", Port(), RawHttp2Client::Reading::kOnlyTransport));
    clients.back()->Call("/infercache.v1.Cache/" + method, request);
    EXPECT_TRUE(Eventually([&] {
      return server->stats().pinned_response_bytes >= before + kDescriptionBytes;
    })) << method;
    // Up to what a connection may hold.
    for (int i = 0; i < 20; ++i) clients.back()->Call("/infercache.v1.Cache/" + method, request);
    EXPECT_TRUE(Eventually([&] {
      return server->stats().pinned_response_bytes >= before + 4 * kDescriptionBytes;
    })) << method;
    // Those before it may still be on their way to what theirs may hold.
    EXPECT_LE(server->stats().pinned_response_bytes, clients.size() * 2 * kMiB) << method;
  }
}

TEST_F(StalledReaderTest, DoNotHoldUpAShutdown) {
  Start();
  Store("object", Pattern(kValueBytes, 1));
  StartReaders();
  ASSERT_TRUE(Eventually([this] { return server->stats().pinned_response_bytes >= kFull; }));
  const absl::Time began = absl::Now();
  server->Shutdown(began + absl::Seconds(1));
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  EXPECT_EQ(DefaultNamespace()->Stats().pins, 0u);
}

TEST_F(StalledReaderTest, ATransportThatIsWellIsDisconnectedToo) {
  options.stall_timeout = absl::Seconds(1);
  Start();
  Store("object", Pattern(kValueBytes, 1));
  RawHttp2Client tcp("", Port(), RawHttp2Client::Reading::kOnlyTransport);
  RawHttp2Client local(socket_path_, 0, RawHttp2Client::Reading::kOnlyTransport);
  for (RawHttp2Client* client : {&tcp, &local}) {
    client->Call("/infercache.v1.Cache/Get", MakeGet({"object"}).SerializeAsString());
  }
  ASSERT_TRUE(Eventually([this] { return server->stats().pinned_response_bytes >= 2 * kMiB; }));
  // The fixture's own connection reads: it must survive the others' end.
  EXPECT_TRUE(Load("object").has_value());
  EXPECT_TRUE(Eventually([&] { return tcp.closed() && local.closed(); }));
  EXPECT_TRUE(IsIdle());
  EXPECT_EQ(server->stats().stalled_disconnects, 2u);
  EXPECT_TRUE(Load("object").has_value());
}

}  // namespace
}  // namespace infercache::rpc
