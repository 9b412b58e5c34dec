#include "server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "server/config_values.h"
#include "tests/e2e/http_get.h"

namespace infercache::server {
namespace {

using e2e::Http;
using testing::HasSubstr;

HttpServer::Routes TwoRoutes() {
  return {{"/hello",
           [] {
             return HttpResponse{200, "hello\n"};
           }},
          {"/down", [] {
             return HttpResponse{503, "down\n"};
           }}};
}

TEST(HttpServer, AnswersOnItsPathsOnly) {
  const auto server = HttpServer::Start("127.0.0.1:0", TwoRoutes());
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string& address = (*server)->address();
  EXPECT_NE(ParseHostPort(address)->port, 0);

  const auto hello = Http(address, "GET", "/hello");
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->status, 200);
  EXPECT_EQ(hello->body, "hello\n");
  EXPECT_THAT(hello->head, HasSubstr("Content-Length: 6\r\n"));
  EXPECT_EQ(Http(address, "GET", "/down")->status, 503);
  EXPECT_EQ(Http(address, "GET", "/hello?x=1")->status, 200);
  EXPECT_EQ(Http(address, "GET", "/hello/more")->status, 404);
  EXPECT_THAT(Http(address, "GET", "/")->body, HasSubstr("/hello\n"));
  EXPECT_EQ(Http(address, "GET", "/../../etc/passwd")->status, 404);
}

TEST(HttpServer, KnowsGetAndHeadOnly) {
  const auto server = HttpServer::Start("127.0.0.1:0", TwoRoutes());
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string& address = (*server)->address();
  const auto head = Http(address, "HEAD", "/hello");
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->body, "");
  EXPECT_THAT(head->head, HasSubstr("Content-Length: 6\r\n"));
  const auto post = Http(address, "POST", "/hello");
  EXPECT_EQ(post->status, 405);
  EXPECT_THAT(post->head, HasSubstr("Allow: GET, HEAD\r\n"));
  EXPECT_EQ(Http(address, "DELETE", "/hello")->status, 405);
}

TEST(HttpServer, NamesTheAddressThatIsTakenOrMalformed) {
  const auto server = HttpServer::Start("127.0.0.1:0", TwoRoutes());
  ASSERT_TRUE(server.ok()) << server.status();
  const auto second = HttpServer::Start((*server)->address(), TwoRoutes());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*server)->address()));
  EXPECT_EQ(HttpServer::Start("127.0.0.1", TwoRoutes()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(HttpServer, ListensOnIpv6) {
  const auto server = HttpServer::Start("[::1]:0", TwoRoutes());
  if (!server.ok()) GTEST_SKIP() << "no IPv6 here: " << server.status();
  EXPECT_EQ(Http((*server)->address(), "GET", "/hello")->status, 200);
}

}  // namespace
}  // namespace infercache::server
