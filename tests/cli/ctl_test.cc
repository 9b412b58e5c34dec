// infercachectl against the real daemon: what it prints, how it ends.

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/e2e/daemon_process.h"

namespace infercache::cli {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Every byte value, and long enough that it crosses pages and calls.
std::string BinaryValue(size_t size) {
  std::string value(size, '\0');
  uint32_t state = 1;
  for (auto& byte : value) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return value;
}

class Ctl : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto daemon = e2e::DaemonProcess::Start(
        {.arguments = {"--capacity", "512MiB"}, .config = "", .environment = {}});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }
  static void TearDownTestSuite() { daemon_.reset(); }

  void SetUp() override {
    ASSERT_NE(daemon_, nullptr) << "the daemon did not start";
    directory_ = testing::TempDir() + "/ctl-XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  }
  void TearDown() override {
    Run({"flush"});
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  CtlResult Run(std::vector<std::string> arguments, const std::string& input = "") {
    arguments.insert(arguments.begin(), {"--endpoint", Endpoint()});
    return RunCtl(arguments, input);
  }
  // Of a run that must succeed and print one JSON document.
  Json RunJson(std::vector<std::string> arguments, int exit_code = 0) {
    arguments.insert(arguments.end(), {"-o", "json"});
    const CtlResult result = Run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    Json json = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(json.is_discarded()) << result.out;
    return json;
  }
  static std::string Endpoint() { return "unix:" + daemon_->socket_path(); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }

  static std::unique_ptr<e2e::DaemonProcess> daemon_;
  std::string directory_;
};

std::unique_ptr<e2e::DaemonProcess> Ctl::daemon_;

TEST_F(Ctl, PingInfoAndStat) {
  const CtlResult ping = Run({"ping"});
  EXPECT_EQ(ping.exit_code, 0) << ping.err;
  EXPECT_THAT(ping.out, HasSubstr("is serving"));
  EXPECT_TRUE(RunJson({"ping"})["serving"].get<bool>());

  const Json info = RunJson({"info"});
  EXPECT_TRUE(info["capacity_bytes"].is_number_unsigned());
  EXPECT_GT(info["capacity_bytes"].get<uint64_t>(), 0u);
  EXPECT_THAT(Run({"info"}).out, HasSubstr("capacity_bytes"));

  const Json stat = RunJson({"stat"});
  EXPECT_EQ(stat["namespaces"][0]["name"], "default");
  EXPECT_TRUE(stat["namespaces"][0]["hits"].is_number_unsigned());
  EXPECT_TRUE(stat["namespaces"][0]["local_hits"].is_number_unsigned());
  EXPECT_TRUE(stat["namespaces"][0]["quarantine_age"]["older_bytes"].is_number_unsigned());
  EXPECT_EQ(stat["local"]["sessions"], 0);
  EXPECT_EQ(stat["local"]["sessions_ended"].size(), 6u);
  const std::string table = Run({"stat"}).out;
  EXPECT_THAT(table, HasSubstr("HIT RATIO"));
  EXPECT_THAT(table, HasSubstr("QUARANTINED"));
  EXPECT_THAT(table, HasSubstr("local.sessions_ended"));
  EXPECT_THAT(table, HasSubstr("process_gone 0"));
  EXPECT_THAT(Run({"stat", "--namespace", "default"}).out, HasSubstr("limbo_age.older_bytes"));
  EXPECT_THAT(Run({"stat", "--namespace", "default"}).out, HasSubstr("largest_free_bytes"));
}

TEST_F(Ctl, StatRepeatsOneObjectALine) {
  const CtlResult result = Run({"stat", "-i", "0.05", "-n", "3", "-o", "json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::istringstream lines(result.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_TRUE(Json::accept(line)) << line;
  }
  EXPECT_EQ(count, 3);

  const CtlResult table = Run({"stat", "-i", "0.05", "-n", "2"});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("HITS/S"));
}

TEST_F(Ctl, PutsAndGetsStandardStreams) {
  const std::string value = BinaryValue(300'000);
  const CtlResult put = Run({"put", "stream"}, value);
  EXPECT_EQ(put.exit_code, 0) << put.err;
  const CtlResult get = Run({"get", "stream"});
  EXPECT_EQ(get.exit_code, 0) << get.err;
  EXPECT_TRUE(get.out == value);
  EXPECT_THAT(get.err, IsEmpty()) << "no progress bar where there is no terminal";
}

TEST_F(Ctl, PutsAndGetsFiles) {
  const std::string value = BinaryValue(70'001);
  const std::string source = Write("source", value);
  EXPECT_EQ(Run({"put", "file", source}).exit_code, 0);
  EXPECT_EQ(Run({"get", "file", Path("copy")}).exit_code, 0);
  EXPECT_TRUE(ReadAll(Path("copy")) == value);
}

TEST_F(Ctl, CarriesAValueLargerThanAMessage) {
  const std::string value = BinaryValue(40 << 20);
  const std::string source = Write("large", value);
  const CtlResult put = Run({"put", "large", source});
  EXPECT_EQ(put.exit_code, 0) << put.err;
  const CtlResult get = Run({"get", "large", Path("copy")});
  EXPECT_EQ(get.exit_code, 0) << get.err;
  EXPECT_TRUE(ReadAll(Path("copy")) == value);
}

TEST_F(Ctl, GetOfAMissEndsWith1AndWritesNoFile) {
  const CtlResult get = Run({"get", "nothing", Path("untouched")});
  EXPECT_EQ(get.exit_code, 1);
  EXPECT_THAT(get.out, IsEmpty());
  EXPECT_THAT(get.err, HasSubstr("miss: nothing"));
  EXPECT_NE(access(Path("untouched").c_str(), F_OK), 0);
  const Json json = RunJson({"get", "nothing", Path("untouched")}, 1);
  EXPECT_FALSE(json["hit"].get<bool>());
}

TEST_F(Ctl, PutKeepsWhatIsThereUnlessToldToOverwrite) {
  const std::string first = Write("first", "first"), second = Write("second", "second");
  EXPECT_EQ(RunJson({"put", "k", first})["outcome"], "stored");
  EXPECT_EQ(RunJson({"put", "k", second})["outcome"], "exists");
  EXPECT_EQ(Run({"get", "k"}).out, "first");
  EXPECT_EQ(RunJson({"put", "k", second, "--overwrite"})["outcome"], "stored");
  EXPECT_EQ(Run({"get", "k"}).out, "second");
}

TEST_F(Ctl, PutDescribesTheObject) {
  const std::string file = Write("v", "value");
  const CtlResult put = Run({"put", "k", file, "--ttl", "1h", "--kind", "kv", "--class", "3",
                             "--cost-ms", "12.5", "--parent", "before"});
  ASSERT_EQ(put.exit_code, 0) << put.err;
  const Json json = RunJson({"get", "k", Path("copy")});
  EXPECT_EQ(json["size_bytes"], 5);
  EXPECT_EQ(json["kind"], "kv");
  EXPECT_EQ(json["class_id"], 3);
  EXPECT_EQ(json["compute_cost_ms"], 12.5);
  EXPECT_GT(json["ttl_ms"], 3'500'000);
  EXPECT_LE(json["ttl_ms"], 3'600'100);
  EXPECT_EQ(json["parts"][0]["dtype"], "bytes");
}

TEST_F(Ctl, FingerprintsKeepModelsApart) {
  const std::string file = Write("v", "value");
  EXPECT_EQ(Run({"put", "k", file, "--fingerprint", "model=a"}).exit_code, 0);
  EXPECT_EQ(Run({"get", "k", "--fingerprint", "model=a"}).exit_code, 0);
  EXPECT_EQ(Run({"get", "k", "--fingerprint", "model=b"}).exit_code, 1);
  EXPECT_EQ(Run({"get", "k"}).exit_code, 1);
}

TEST_F(Ctl, ExistsMatchAndDeleteAnswerPerKey) {
  const std::string file = Write("v", "value");
  for (const char* key : {"a", "b", "d"}) ASSERT_EQ(Run({"put", key, file}).exit_code, 0);

  EXPECT_EQ(Run({"exists", "a", "b"}).exit_code, 0);
  const Json exists = RunJson({"exists", "a", "c"}, 1);
  EXPECT_TRUE(exists["keys"][0]["present"].get<bool>());
  EXPECT_FALSE(exists["keys"][1]["present"].get<bool>());
  EXPECT_EQ(exists["present"], 1);

  const Json match = RunJson({"match", "a", "b", "c", "d"});
  EXPECT_EQ(match["prefix_length"], 2);
  EXPECT_TRUE(match["keys"][3]["present"].get<bool>());
  EXPECT_EQ(match["keys"][3]["size_bytes"], 5);
  EXPECT_EQ(Run({"match", "c", "a"}).exit_code, 1);
  EXPECT_THAT(Run({"match", "a", "b", "c"}).out, HasSubstr("cached prefix: 2 of 3 blocks"));

  EXPECT_EQ(Run({"delete", "a", "b"}).exit_code, 0);
  EXPECT_EQ(Run({"delete", "a", "d"}).exit_code, 1);
  EXPECT_EQ(Run({"exists", "d"}).exit_code, 1);
}

TEST_F(Ctl, KeysThatLookLikeCommandsOrOptionsAreKeys) {
  const std::string file = Write("v", "value");
  EXPECT_EQ(Run({"put", "stat", file}).exit_code, 0);
  EXPECT_EQ(Run({"put", "--", "--help", file}).exit_code, 0);
  EXPECT_EQ(Run({"exists", "stat"}).exit_code, 0);
  EXPECT_EQ(Run({"exists", "--", "--help"}).exit_code, 0);
}

TEST_F(Ctl, ListsPagesOfKeysInOrder) {
  const std::string file = Write("v", "value");
  for (const char* key : {"b/2", "a/1", "b/1", R"(b/\xff)"}) {
    ASSERT_EQ(Run({"put", key, file}).exit_code, 0);
  }
  const CtlResult list = Run({"list", "b/", "-o", "json"});
  EXPECT_EQ(list.exit_code, 0) << list.err;
  std::istringstream lines(list.out);
  std::vector<std::string> keys;
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << line;
    keys.push_back(json["key"]);
    EXPECT_EQ(json["size_bytes"], 5);
  }
  EXPECT_THAT(keys, testing::ElementsAre("b/1", "b/2", R"(b/\xff)"));
  EXPECT_EQ(Run({"get", keys.back()}).out, "value") << "what list prints can be given to get";

  const CtlResult limited = Run({"list", "--limit", "1"});
  EXPECT_THAT(limited.out, HasSubstr("a/1"));
  EXPECT_THAT(limited.out, Not(HasSubstr("b/1")));
}

TEST_F(Ctl, FlushErasesAPrefix) {
  const std::string file = Write("v", "value");
  for (const char* key : {"a/1", "b/1", "b/2"}) ASSERT_EQ(Run({"put", key, file}).exit_code, 0);
  EXPECT_EQ(RunJson({"flush", "b/"})["erased"], 2);
  EXPECT_EQ(Run({"exists", "a/1"}).exit_code, 0);
  EXPECT_EQ(RunJson({"flush"})["erased"], 1);
}

TEST_F(Ctl, MakesAndDeletesNamespaces) {
  const Json made = RunJson(
      {"namespace", "create", "ctl-test", "--quota", "1MiB", "--open", "--require", "model=a"});
  EXPECT_EQ(made["name"], "ctl-test");
  EXPECT_EQ(made["quota_bytes"], 1 << 20);
  EXPECT_THAT(Run({"namespace", "list"}).out, HasSubstr("model=a"));

  const std::string file = Write("v", "value");
  EXPECT_EQ(Run({"put", "k", file, "--namespace", "ctl-test"}).exit_code, 4)
      << "the namespace demands a fingerprint";
  EXPECT_EQ(
      Run({"put", "k", file, "--namespace", "ctl-test", "--fingerprint", "model=a"}).exit_code, 0);
  EXPECT_EQ(Run({"exists", "k"}).exit_code, 1) << "not in the default namespace";

  EXPECT_EQ(Run({"namespace", "delete", "ctl-test"}).exit_code, 0);
  const CtlResult gone = Run({"namespace", "delete", "ctl-test", "-o", "json"});
  EXPECT_EQ(gone.exit_code, 4);
  EXPECT_EQ(Json::parse(gone.err, nullptr, false)["error"]["code"], "NOT_FOUND") << gone.err;
}

TEST_F(Ctl, SaysWhoMayUseANamespaceOverTheSameHostLane) {
  const Json made = RunJson({"namespace", "create", "closed", "--quota", "1MiB", "--local-users",
                             "4000000001,@4000000002", "--local-writers", "-"});
  EXPECT_EQ(made["local_users"]["users"], Json::array({4000000001}));
  EXPECT_EQ(made["local_users"]["groups"], Json::array({4000000002}));
  const CtlResult list = Run({"namespace", "list"});
  EXPECT_THAT(list.out, HasSubstr("4000000001 @4000000002"));
  EXPECT_THAT(list.out, HasSubstr("LOCAL WRITERS"));
  const CtlResult refused = Run({"get", "k", "--namespace", "closed"});
  EXPECT_EQ(refused.exit_code, 4);
  EXPECT_THAT(refused.err, HasSubstr("local_users"));
  EXPECT_EQ(Run({"namespace", "delete", "closed"}).exit_code, 0);
  EXPECT_EQ(
      Run({"namespace", "create", "closed", "--quota", "1MiB", "--local-users", "1,me"}).exit_code,
      2);
}

TEST_F(Ctl, ChangesThePolicyOfANamespace) {
  const std::string file = Write("v", "value");
  ASSERT_EQ(Run({"put", "k", file}).exit_code, 0);
  const Json changed = RunJson({"namespace", "policy", "default", "arc"});
  EXPECT_EQ(changed["policy"], "arc");
  const std::string before = changed["previous_policy"];
  EXPECT_EQ(RunJson({"namespace", "policy", "default", before})["previous_policy"], "arc");
  EXPECT_EQ(Run({"get", "k"}).out, "value");
  EXPECT_EQ(Run({"namespace", "policy", "default", "clairvoyant"}).exit_code, 2);
  EXPECT_EQ(Run({"namespace", "policy", "none", "lru"}).exit_code, 4);
  EXPECT_EQ(Run({"namespace", "policy", "default"}).exit_code, 2);
}

TEST_F(Ctl, ChangesTheLogLevel) {
  const std::string before = RunJson({"log-level", "debug"})["previous_level"];
  EXPECT_EQ(RunJson({"log-level", before})["previous_level"], "debug");
  EXPECT_EQ(Run({"log-level", "loud"}).exit_code, 2);
}

TEST_F(Ctl, UsageErrorsEndWith2) {
  const std::string file = Write("v", "value");
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"frobnicate"},
      {"get"},
      {"get", "k", "f", "more"},
      {"get", "k", "--frobnicate"},
      {"get", R"(bad\escape)"},
      {"get", "k", "-o", "json"},
      {"get", "k", "-o", "xml"},
      {"put", "k", file, "--class", "16"},
      {"put", "k", file, "--kind", "cake"},
      {"put", "k", file, "--ttl", "5"},
      {"put", std::string(1025, 'k'), file},
      {"put", "k", Write("empty", "")},
      {"ping", "--deadline", "soon"},
      {"ping", "--fingerprint", "model"},
      {"bench", "--op", "dance"},
      {"bench", "--op", "get", "--size", "huge"},
      {"replay", "--trace", file, "--block-bytes", "64", "--blocks", "0"},
      {"namespace"},
      {"namespace", "create", "Bad Name", "--quota", "1MiB"},
  };
  for (const auto& arguments : wrong) {
    const CtlResult result = Run(arguments);
    EXPECT_EQ(result.exit_code, 2) << testing::PrintToString(arguments) << "\n" << result.err;
    EXPECT_THAT(result.err, Not(IsEmpty())) << testing::PrintToString(arguments);
  }
}

TEST_F(Ctl, AnEndpointThatCanNeverWorkEndsWith2) {
  EXPECT_EQ(RunCtl({"ping", "--endpoint", "no port"}).exit_code, 2);
}

TEST_F(Ctl, HelpAndVersionNeedNoDaemon) {
  const CtlResult help = RunCtl({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* text : {"replay", "Exit codes", "INFERCACHE_ENDPOINT", "--token-file"}) {
    EXPECT_THAT(help.out, HasSubstr(text));
  }
  EXPECT_THAT(RunCtl({"replay", "--help"}).out, HasSubstr("--block-bytes"));
  const CtlResult version = RunCtl({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, testing::StartsWith("infercachectl "));
}

TEST_F(Ctl, UnreachableEndsWith3) {
  const std::string nobody = "unix:" + Path("nobody.sock");
  const std::string file = Write("v", "value");
  const std::vector<std::vector<std::string>> commands = {
      {"ping"}, {"stat"}, {"get", "k"}, {"put", "k", file}, {"exists", "k"}, {"list"}};
  for (auto arguments : commands) {
    arguments.insert(arguments.end(), {"--endpoint", nobody, "--deadline", "1s"});
    const CtlResult result = RunCtl(arguments);
    EXPECT_EQ(result.exit_code, 3) << arguments[0] << ": " << result.err;
  }
}

TEST_F(Ctl, TakesItsEndpointFromTheEnvironment) {
  const CtlResult result = RunCtl({"ping"}, "", {"INFERCACHE_ENDPOINT=" + daemon_->grpc_address()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const CtlResult option_wins =
      RunCtl({"ping", "--endpoint", Endpoint()}, "", {"INFERCACHE_ENDPOINT=127.0.0.1:1"});
  EXPECT_EQ(option_wins.exit_code, 0) << option_wins.err;
}

TEST_F(Ctl, BenchReportsEveryOperationAndLeavesNothingBehind) {
  for (const char* op : {"get", "put", "match"}) {
    const Json json = RunJson({"bench", "--op", op, "--size", "4KiB", "--seconds", "0.2",
                               "--clients", "2", "--keys", "16"});
    EXPECT_EQ(json["op"], op);
    EXPECT_GT(json["ops"], 0) << op;
    EXPECT_GT(json["ops_per_second"], 0) << op;
    EXPECT_EQ(json["errors"], 0) << op;
    EXPECT_EQ(json["misses"], 0) << op;
    EXPECT_LE(json["p50_us"], json["p99_us"]) << op;
    EXPECT_LE(json["p99_us"], json["max_us"]) << op;
  }
  EXPECT_THAT(Run({"list", "-o", "json"}).out, IsEmpty());
}

// Four blocks shared by all requests, then two of their own each; and everything twice.
std::string SmallTrace() {
  std::string text;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 10; ++i) {
      const std::string own = std::to_string(100 + 2 * i) + "," + std::to_string(101 + 2 * i);
      text += R"({"timestamp":0,"input_length":3072,"output_length":1,"hash_ids":[1,2,3,4,)" + own +
              "]}\n";
    }
  }
  return text;
}

TEST_F(Ctl, ReplayCountsHitsOfATraceThatFits) {
  const std::string trace = Write("trace.jsonl", SmallTrace());
  const Json json =
      RunJson({"replay", "--trace", trace, "--block-bytes", "5000", "--blocks", "100%"});
  EXPECT_EQ(json["requests"], 20);
  EXPECT_EQ(json["blocks"], 120);
  EXPECT_EQ(json["unique_blocks"], 24);
  EXPECT_EQ(json["capacity_blocks"], 24);
  // Everything but the first sight of each block is a hit: 9 x 4 in the first round, 60 in the
  // second.
  EXPECT_EQ(json["prefix_blocks"], 96);
  EXPECT_DOUBLE_EQ(json["prefix_hit_ratio"].get<double>(), 0.8);
  EXPECT_EQ(json["bytes_get"], 96 * 5000);
  EXPECT_EQ(json["bytes_put"], 24 * 5000);
  EXPECT_EQ(json["wrong_bytes"], 0);
  for (const char* name : {"match_p50_us", "get_p99_us", "put_p99_us"}) EXPECT_GT(json[name], 0);
  EXPECT_THAT(Run({"namespace", "list"}).out, Not(HasSubstr("replay-"))) << "cleans up";
}

TEST_F(Ctl, ReplayWithFewBlocksEvictsAndWithManyClientsLosesNothing) {
  const std::string trace = Write("trace.jsonl", SmallTrace());
  const Json few = RunJson({"replay", "--trace", trace, "--block-bytes", "4KiB", "--blocks", "6"});
  EXPECT_EQ(few["blocks"], 120);
  EXPECT_LT(few["prefix_blocks"], 96) << "the second round no longer finds its own blocks";
  const Json many = RunJson(
      {"replay", "--trace", trace, "--block-bytes", "4KiB", "--blocks", "24", "--clients", "4"});
  EXPECT_EQ(many["requests"], 20);
  EXPECT_EQ(many["wrong_bytes"], 0);
  EXPECT_EQ(many["refused_blocks"], 0);
}

TEST_F(Ctl, ReplayKeepsItsNamespaceIfAsked) {
  const std::string trace = Write("trace.jsonl", SmallTrace());
  const std::string name = RunJson({"replay", "--trace", trace, "--block-bytes", "1KiB", "--blocks",
                                    "24", "--keep"})["namespace"];
  const Json stat = RunJson({"stat", "--namespace", name});
  EXPECT_EQ(stat["namespaces"][0]["objects"], 24);
  EXPECT_EQ(Run({"namespace", "delete", name}).exit_code, 0);
}

TEST_F(Ctl, ReplayOfAMalformedTraceNamesFileAndLine) {
  const std::string trace = Write("bad.jsonl", SmallTrace() + R"({"timestamp":0})" + "\n");
  const CtlResult result =
      Run({"replay", "--trace", trace, "--block-bytes", "1KiB", "--blocks", "10%"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr(trace + ":21: field \"input_length\" is missing"));
  EXPECT_EQ(Run({"replay", "--trace", Path("none"), "--block-bytes", "1KiB", "--blocks", "10%"})
                .exit_code,
            4);
}

TEST_F(Ctl, DrainEndsTheDaemon) {
  const auto daemon = e2e::DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  // Over TCP, loopback or not, everybody could.
  const CtlResult refused = RunCtl({"--endpoint", (*daemon)->grpc_address(), "drain"});
  EXPECT_EQ(refused.exit_code, 4);
  EXPECT_THAT(refused.err, HasSubstr("auth.socket_admins"));
  const std::string endpoint = "unix:" + (*daemon)->socket_path();
  EXPECT_EQ(RunCtl({"--endpoint", endpoint, "drain"}).exit_code, 0);
  EXPECT_EQ((*daemon)->Wait(), 0);
  EXPECT_EQ(RunCtl({"--endpoint", endpoint, "ping", "--deadline", "1s"}).exit_code, 3);
}

}  // namespace
}  // namespace infercache::cli
