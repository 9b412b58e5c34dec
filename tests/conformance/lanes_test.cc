// Which lane a client takes, and what only one of them can do.

#include <atomic>
#include <thread>

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

using GrpcLane = Conformance<TcpFixture>;
using LocalLane = Conformance<LocalFixture>;

TEST_F(GrpcLane, HasNoViews) {
  EXPECT_EQ(client_->lane(), Lane::kRemote);
  Put("k", "v");
  EXPECT_TRUE(absl::IsUnimplemented(client_->View("k").status));
  const GetResult got = client_->Get("k");
  ASSERT_TRUE(got.hit());
  EXPECT_FALSE(got.object->zero_copy());
}

TEST_F(LocalLane, ViewsTheDaemonsMemory) {
  EXPECT_EQ(client_->lane(), Lane::kLocal);
  Put("k", "v");
  const GetResult got = client_->View("k");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_TRUE(got.object->zero_copy());
  const std::vector<std::string_view> keys = {"k", "missing"};
  const std::vector<GetResult> views = client_->View(keys);
  EXPECT_TRUE(views[0].hit());
  EXPECT_FALSE(views[1].hit());
  EXPECT_TRUE(views[1].status.ok());
}

TEST_F(LocalLane, RefusesTls) {
  ClientOptions options = transport_.options();
  options.tls = TlsOptions{};
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect(std::move(options)).status()));
}

TEST(GrpcOverAUnixSocket, Works) {
  const auto daemon = InProcessDaemon::Grpc("unix:" + NewSocketPath(), kQuotaBytes);
  auto client = Client::Connect({.endpoint = "grpc+" + daemon->endpoint()});
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ((*client)->lane(), Lane::kRemote);
  EXPECT_EQ((*client)->Put({.key = "k", .value = {Bytes("v")}}).outcome, PutOutcome::kStored);
  const GetResult got = (*client)->Get("k");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(Text(got.object->bytes()), "v");
}

// The daemon sees a little late that an answer was taken: until then its bytes count as on their
// way.
TEST(AFewGetsAtATime, WaitWhereAnswersThatWereTakenStillCount) {
  constexpr size_t kBytes = 1 << 20;
  constexpr int kThreads = 3;
  // Of which one connection gets three quarters.
  const auto daemon =
      InProcessDaemon::Grpc("127.0.0.1:0", kQuotaBytes, /*max_pinned_bytes=*/4 * kBytes);
  auto client = Client::Connect({.endpoint = daemon->endpoint(), .deadline = absl::Seconds(60)});
  ASSERT_TRUE(client.ok()) << client.status();
  const std::string value(kBytes - 1000, 'v');
  ASSERT_EQ((*client)->Put({.key = "k", .value = {Bytes(value)}}).outcome, PutOutcome::kStored);
  std::atomic<int> missed = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 200; ++n) {
        const GetResult got = (*client)->Get("k");
        if (!got.hit() && missed++ == 0) ADD_FAILURE() << got.status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(missed, 0);
}

}  // namespace
}  // namespace infercache
