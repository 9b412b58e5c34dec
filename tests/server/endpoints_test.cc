#include "server/endpoints.h"

#include <gmock/gmock.h>

#include "common/heartbeat.h"

namespace infercache::server {
namespace {

using ::testing::HasSubstr;

class EndpointsTest : public ::testing::Test {
 protected:
  HttpResponse Get(const char* path) const { return routes_.at(path)(); }

  Metrics metrics_{{}};
  Lifecycle lifecycle_;
  Heartbeats heartbeats_;
  const std::shared_ptr<Heartbeat> thread_ = heartbeats_.Add("a thread");
  const HttpServer::Routes routes_ = Endpoints(metrics_, lifecycle_, heartbeats_);
};

TEST_F(EndpointsTest, AreWellWhileEveryThreadIs) {
  EXPECT_EQ(Get("/livez").status, 200) << "while it starts";
  EXPECT_EQ(Get("/readyz").status, 503);
  lifecycle_.SetServing();
  for (const char* path : {"/livez", "/healthz", "/readyz"}) EXPECT_EQ(Get(path).status, 200);
}

// A daemon all of whose threads hung was well and ready.
TEST_F(EndpointsTest, TellWhichThreadHangs) {
  lifecycle_.SetServing();
  thread_->Beat(Heartbeat::Clock::now() - kLongestSilence - std::chrono::seconds(1));
  for (const char* path : {"/livez", "/healthz", "/readyz"}) {
    EXPECT_EQ(Get(path).status, 503) << path;
    EXPECT_THAT(Get(path).body, HasSubstr("no sign of life")) << path;
    EXPECT_THAT(Get(path).body, HasSubstr("a thread")) << path;
  }
  thread_->Beat();
  EXPECT_EQ(Get("/readyz").status, 200);
}

}  // namespace
}  // namespace infercache::server
