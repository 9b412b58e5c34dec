// What monitoring sees of the running daemon.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/http_get.h"
#include "tests/e2e/test_client.h"

namespace infercache::e2e {
namespace {

using testing::HasSubstr;

// Prometheus' text format, strictly: every line is HELP, TYPE or a sample of the family before.
// Returns the samples by name and labels.
std::map<std::string, double> ParseMetrics(const std::string& text) {
  static const std::regex kHelp("# HELP ([a-z_:][a-z0-9_:]*) .+");
  static const std::regex kType("# TYPE ([a-z_:][a-z0-9_:]*) (counter|gauge|histogram)");
  static const std::regex kSample(
      "([a-z_:][a-z0-9_:]*)(\\{[a-z_]+=\"[^\"]*\"(,[a-z_]+=\"[^\"]*\")*\\})? ([0-9.e+-]+|\\+Inf)");
  std::map<std::string, double> samples;
  std::set<std::string> families;
  std::string family;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::smatch match;
    if (std::regex_match(line, match, kHelp)) {
      family = match[1];
      EXPECT_TRUE(families.insert(family).second) << "twice: " << family;
    } else if (std::regex_match(line, match, kType)) {
      EXPECT_EQ(match[1], family);
    } else if (std::regex_match(line, match, kSample)) {
      EXPECT_EQ(match[1].str().substr(0, family.size()), family) << line;
      const bool fresh = samples
                             .emplace(match[1].str() + match[2].str(),
                                      std::strtod(match[4].str().c_str(), nullptr))
                             .second;
      EXPECT_TRUE(fresh) << "twice: " << line;
    } else {
      ADD_FAILURE() << "not in the format: " << line;
    }
  }
  return samples;
}

TEST(Http, HealthAndVersion) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const std::string& address = (*daemon)->http_address();
  for (const char* path : {"/healthz", "/livez", "/readyz"}) {
    EXPECT_EQ(Http(address, "GET", path)->status, 200) << path;
  }
  EXPECT_THAT(Http(address, "GET", "/version")->body, HasSubstr("\"version\": \"0."));
  EXPECT_EQ(Http(address, "GET", "/nothing")->status, 404);
  EXPECT_EQ(Http(address, "POST", "/metrics")->status, 405);
}

// Each had one of four threads for 5 s: a probe timed out, and an orchestrator started the daemon
// again.
TEST(Http, ConnectionsThatSayNothingKeepNoProbeWaiting) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const std::string& address = (*daemon)->http_address();
  sockaddr_in to = {
      .sin_family = AF_INET,
      .sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)))),
      .sin_addr = {htonl(INADDR_LOOPBACK)},
      .sin_zero = {}};
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 24; ++i) {
    idle.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(idle.back().get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Http(address, "GET", "/livez")->status, 200);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1500));
}

TEST(Http, MetricsAreInTheFormatAndCountWhatHappened) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient client((*daemon)->grpc_address());
  const std::string value(10'000, 'x');
  ASSERT_TRUE(client.Put("default", "a", value).ok());
  ASSERT_TRUE(client.Put("default", "a", value).ok());
  bool found = false;
  std::string got;
  ASSERT_TRUE(client.Get("default", "a", found, got).ok());
  ASSERT_TRUE(client.Get("default", "b", found, got).ok());
  EXPECT_EQ(client.Get("nowhere", "b", found, got).error_code(), grpc::StatusCode::NOT_FOUND);

  const std::string duration =
      "infercache_grpc_server_call_duration_seconds_count{grpc_method=\"infercache.v1.Cache/Get\","
      "grpc_status=";
  const std::string answered = duration + "\"OK\"}", refused = duration + "\"NOT_FOUND\"}";
  // A call is counted once its answer is complete, which is after the client has it.
  std::map<std::string, double> samples;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  do {
    const auto answer = Http((*daemon)->http_address(), "GET", "/metrics");
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_THAT(answer->head, HasSubstr("text/plain; version=0.0.4"));
    samples = ParseMetrics(answer->body);
  } while (!(samples[answered] == 2 && samples[refused] == 1) &&
           std::chrono::steady_clock::now() < deadline);
  const std::string ns = "{namespace=\"default\",tier=\"host\"}";
  const std::string daemon_lane = "{namespace=\"default\",tier=\"host\",lane=\"daemon\"}";
  EXPECT_EQ(samples.at("infercache_ready"), 1);
  EXPECT_EQ(samples.at("infercache_objects" + ns), 1);
  EXPECT_EQ(samples.at("infercache_lookup_hits_total" + daemon_lane), 1);
  EXPECT_EQ(samples.at("infercache_lookup_misses_total" + daemon_lane), 1);
  EXPECT_EQ(samples.at("infercache_hit_bytes_total" + daemon_lane), 10'000);
  EXPECT_EQ(
      samples.at(
          "infercache_store_requests_total{namespace=\"default\",tier=\"host\",result=\"stored\"}"),
      1);
  EXPECT_EQ(
      samples.at(
          "infercache_store_requests_total{namespace=\"default\",tier=\"host\",result=\"exists\"}"),
      1);
  EXPECT_GE(
      samples.at("infercache_used_bytes{namespace=\"default\",tier=\"host\",state=\"visible\"}"),
      10'000);
  EXPECT_EQ(samples.at(answered), 2);
  EXPECT_EQ(samples.at(refused), 1);
  EXPECT_GT(samples.at("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(samples.at("process_open_fds"), 3);
}

}  // namespace
}  // namespace infercache::e2e
