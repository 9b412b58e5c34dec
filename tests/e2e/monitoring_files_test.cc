// The alerts and the dashboard in deploy/ against a running daemon: every series that they use is
// on its /metrics, with the labels that they ask for.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/e2e/daemon_process.h"
#include "tests/e2e/http_get.h"
#include "tests/e2e/test_client.h"
#include "tests/fake_cuda/fake_driver.h"

namespace infercache::e2e {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using Labels = std::map<std::string, std::string>;
using Series = std::multimap<std::string, Labels>;  // by name

// Added to every series by Prometheus, when it scrapes.
const std::set<std::string>& ScrapeLabels() {
  static const std::set<std::string> kLabels = {"instance", "job"};
  return kLabels;
}

Labels ParseLabels(const std::string& text) {
  static const std::regex kLabel("([a-z_]+)=\"([^\"]*)\"");
  Labels labels;
  for (std::sregex_iterator it(text.begin(), text.end(), kLabel), end; it != end; ++it) {
    labels[(*it)[1]] = (*it)[2];
  }
  return labels;
}

Series ParseMetrics(const std::string& text) {
  static const std::regex kSample("([a-z_]+)(\\{.*\\})? [^ ]+");
  Series series;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (line.starts_with('#') || !std::regex_match(line, match, kSample)) continue;
    series.emplace(match[1], ParseLabels(match[2]));
  }
  return series;
}

// name{label op "value", ...} of a PromQL expression.
struct Matcher {
  std::string label, op, value;
};
struct Selector {
  std::string name;
  std::vector<Matcher> matchers;
};

// What is no function, keyword, label of a grouping or text. A name that is misspelt is a selector
// of something that no daemon has.
std::vector<Selector> Selectors(std::string expr) {
  static const std::regex kGrouping("\\b(by|without|on|ignoring)\\s*\\([^)]*\\)");
  static const std::regex kRange("\\[[^\\]]*\\]");
  static const std::regex kSelector("([a-zA-Z_:][a-zA-Z0-9_:]*)\\s*(\\{([^}]*)\\}|\\()?");
  static const std::regex kMatcher("([a-z_]+)\\s*(=~|!~|!=|=)\\s*\"([^\"]*)\"");
  static const std::set<std::string> kKeywords = {"and", "or", "unless", "bool", "offset"};
  expr = std::regex_replace(expr, kGrouping, " ");
  expr = std::regex_replace(expr, kRange, " ");
  std::vector<Selector> selectors;
  for (std::sregex_iterator it(expr.begin(), expr.end(), kSelector), end; it != end; ++it) {
    const std::smatch& match = *it;
    const bool is_function = match[2] == "(";
    // Prometheus makes "up" itself.
    if (is_function || kKeywords.contains(match[1]) || match[1] == "up") continue;
    // A number's exponent or unit is no name.
    if (match.position() > 0 && std::isdigit(expr[match.position() - 1])) continue;
    Selector selector{match[1], {}};
    const std::string matchers = match[3];
    for (std::sregex_iterator m(matchers.begin(), matchers.end(), kMatcher); m != end; ++m) {
      selector.matchers.push_back({(*m)[1], (*m)[2], (*m)[3]});
    }
    selectors.push_back(std::move(selector));
  }
  return selectors;
}

bool Matches(const Labels& labels, const Matcher& matcher) {
  if (ScrapeLabels().contains(matcher.label)) return true;
  const auto found = labels.find(matcher.label);
  if (found == labels.end()) return false;
  // A variable of the dashboard stands for any of the label's values.
  if (matcher.value.starts_with('$')) return true;
  if (matcher.op == "=") return found->second == matcher.value;
  if (matcher.op == "!=") return found->second != matcher.value;
  const bool matches = std::regex_match(found->second, std::regex(matcher.value));
  return matches == (matcher.op == "=~");
}

bool Exists(const Series& series, const Selector& selector) {
  const auto [begin, end] = series.equal_range(selector.name);
  return std::any_of(begin, end, [&selector](const auto& entry) {
    return std::all_of(selector.matchers.begin(), selector.matchers.end(),
                       [&entry](const Matcher& m) { return Matches(entry.second, m); });
  });
}

// The selectors of `expr` that nothing in `series` matches.
std::vector<std::string> Missing(const Series& series, const std::string& expr) {
  std::vector<std::string> missing;
  for (const Selector& selector : Selectors(expr)) {
    if (!Exists(series, selector)) missing.push_back(selector.name);
  }
  return missing;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string AlertsPath() { return DEPLOY_DIRECTORY "/prometheus/alerts.yaml"; }
std::string DashboardPath() { return DEPLOY_DIRECTORY "/grafana/infercache.json"; }

// A daemon with a tier in a GPU that has served a hit, a miss and a call that failed, and its
// /metrics.
class MonitoringFiles : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    gpu_ = std::make_unique<fake_cuda::FakeDriver>(1, uint64_t{64} << 20);
    auto daemon = DaemonProcess::Start({.arguments = {"--default-devices=auto=16MiB"},
                                        .environment = {{"LD_LIBRARY_PATH", FAKE_CUDA_LIBRARY_DIR},
                                                        {"FAKE_CUDA_STATE", gpu_->path()}}});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    TestClient client(daemon_->grpc_address());
    bool found = false;
    std::string value;
    ASSERT_TRUE(client.Put("default", "a", "value").ok());
    ASSERT_TRUE(client.Get("default", "a", found, value).ok());
    ASSERT_TRUE(client.Get("default", "b", found, value).ok());
    ASSERT_FALSE(client.Get("nowhere", "a", found, value).ok());
  }
  static void TearDownTestSuite() {
    daemon_.reset();
    gpu_.reset();
  }

  void SetUp() override {
    ASSERT_NE(daemon_, nullptr) << "the daemon did not start";
    // A call is counted after its answer: wait for the one that failed, which came last.
    const Selector failed{"infercache_grpc_server_call_duration_seconds_count",
                          {{"grpc_status", "!=", "OK"}}};
    for (int scrape = 0; scrape < kScrapes && !Exists(series_, failed); ++scrape) {
      const auto answer = Http(daemon_->http_address(), "GET", "/metrics");
      ASSERT_TRUE(answer.ok()) << answer.status();
      text_ = answer->body;
      series_ = ParseMetrics(text_);
    }
    ASSERT_TRUE(Exists(series_, failed)) << text_;
  }

  static constexpr int kScrapes = 1000;
  static inline std::unique_ptr<fake_cuda::FakeDriver> gpu_;
  static std::unique_ptr<DaemonProcess> daemon_;
  std::string text_;
  Series series_;
};

std::unique_ptr<DaemonProcess> MonitoringFiles::daemon_;

// The test's own eyes first.
TEST_F(MonitoringFiles, WhatIsMisspeltIsMissing) {
  EXPECT_THAT(Missing(series_, "rate(infercache_lookup_hits_total[5m]) > 1e3"), IsEmpty());
  EXPECT_THAT(Missing(series_, "sum by (le, namespace) (rate(infercache_lookup_hit_total[5m]))"),
              ElementsAre("infercache_lookup_hit_total"));
  EXPECT_THAT(Missing(series_, "infercache_ready offset 1d and infercache_redy"),
              ElementsAre("infercache_redy"));
  EXPECT_THAT(Missing(series_, "infercache_used_bytes{state=\"visible\", instance=~\"$i\"}"),
              IsEmpty());
  for (const char* wrong :
       {"infercache_used_bytes{state=\"seen\"}", "infercache_used_bytes{state=~\"v\"}",
        "infercache_used_bytes{shard=~\"$shard\"}", "infercache_used_bytes{state!~\".*\"}"}) {
    EXPECT_THAT(Missing(series_, wrong), ElementsAre("infercache_used_bytes")) << wrong;
  }
}

TEST_F(MonitoringFiles, AlertsUseSeriesThatExist) {
  const YAML::Node file = YAML::LoadFile(AlertsPath());
  std::set<std::string> names;
  for (const YAML::Node& group : file["groups"]) {
    for (const YAML::Node& rule : group["rules"]) {
      const auto name = rule["alert"].as<std::string>();
      EXPECT_TRUE(names.insert(name).second) << "twice: " << name;
      EXPECT_THAT(Missing(series_, rule["expr"].as<std::string>()), IsEmpty()) << name;
      EXPECT_FALSE(rule["annotations"]["description"].as<std::string>().empty()) << name;
    }
  }
  EXPECT_GE(names.size(), 10u);
}

TEST_F(MonitoringFiles, DashboardUsesSeriesThatExist) {
  const auto dashboard = nlohmann::json::parse(ReadAll(DashboardPath()));
  std::set<int> ids;
  size_t expressions = 0;
  for (const auto& panel : dashboard["panels"]) {
    const auto title = panel["title"].get<std::string>();
    EXPECT_TRUE(ids.insert(panel["id"].get<int>()).second) << title;
    for (const auto& target : panel["targets"]) {
      const auto expr = target["expr"].get<std::string>();
      EXPECT_THAT(Missing(series_, expr), IsEmpty()) << title << ": " << expr;
      EXPECT_FALSE(Selectors(expr).empty()) << title;
      ++expressions;
    }
  }
  EXPECT_GE(expressions, 20u);
  static const std::regex kLabelValues("label_values\\((.*), ([a-z]+)\\)");
  for (const auto& variable : dashboard["templating"]["list"]) {
    if (variable["type"] != "query") continue;
    const auto query = variable["query"]["query"].get<std::string>();
    std::smatch match;
    ASSERT_TRUE(std::regex_match(query, match, kLabelValues)) << query;
    std::vector<Selector> selectors = Selectors(match[1]);
    ASSERT_EQ(selectors.size(), 1u) << query;
    selectors[0].matchers.push_back({match[2], "=~", ".*"});
    EXPECT_TRUE(Exists(series_, selectors[0])) << query;
  }
}

// promtool knows the format and PromQL better than this file does.
class Promtool : public MonitoringFiles {
 protected:
  void SetUp() override {
    const auto found = RunToEnd("/bin/sh", {"-c", "command -v promtool"});
    ASSERT_TRUE(found.ok()) << found.status();
    if (found->exit_code != 0) {
      GTEST_SKIP() << "promtool is not installed (package prometheus): not checked";
    }
    MonitoringFiles::SetUp();
  }
  static void ExpectNoComplaint(const std::string& command, const std::string& path) {
    const auto run = RunToEnd("/bin/sh", {"-c", command, path});
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->exit_code, 0) << run->out << run->err;
  }
};

TEST_F(Promtool, AcceptsTheMetrics) {
  const TemporaryDirectory directory;
  ExpectNoComplaint("promtool check metrics < \"$0\"", directory.File("metrics", text_));
}

TEST_F(Promtool, AcceptsTheAlerts) {
  ExpectNoComplaint("promtool check rules --lint-fatal \"$0\"", AlertsPath());
}

TEST_F(Promtool, SeesAlertsFireWhenTheyShould) {
  const std::string rules =
      std::regex_replace(ReadAll(RULES_TEST), std::regex("\\[ALERTS\\]"), "[" + AlertsPath() + "]");
  const TemporaryDirectory directory;
  ExpectNoComplaint("promtool test rules \"$0\"", directory.File("test.yaml", rules));
}

TEST_F(Promtool, AcceptsTheDashboardsExpressions) {
  // As rules, which is what promtool parses; Grafana fills its variables in before.
  const auto dashboard = nlohmann::json::parse(ReadAll(DashboardPath()));
  nlohmann::json rules = nlohmann::json::array();
  for (const auto& panel : dashboard["panels"]) {
    for (const auto& target : panel["targets"]) {
      const std::string expr = std::regex_replace(target["expr"].get<std::string>(),
                                                  std::regex("\\$__rate_interval"), "5m");
      rules.push_back({{"record", "panel:" + std::to_string(rules.size())}, {"expr", expr}});
    }
  }
  const nlohmann::json file = {{"groups", {{{"name", "dashboard"}, {"rules", rules}}}}};
  const TemporaryDirectory directory;
  ExpectNoComplaint("promtool check rules \"$0\"", directory.File("rules.yaml", file.dump()));
}

}  // namespace
}  // namespace infercache::e2e
