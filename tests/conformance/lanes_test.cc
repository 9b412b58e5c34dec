// Which lane a client takes, and what only one of them can do.

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
  const auto daemon = InProcessDaemon::Grpc("unix:" + NewSocketPath());
  auto client = Client::Connect({.endpoint = "grpc+" + daemon->endpoint()});
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ((*client)->lane(), Lane::kRemote);
  EXPECT_EQ((*client)->Put({.key = "k", .value = {Bytes("v")}}).outcome, PutOutcome::kStored);
  const GetResult got = (*client)->Get("k");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(Text(got.object->bytes()), "v");
}

}  // namespace
}  // namespace infercache
