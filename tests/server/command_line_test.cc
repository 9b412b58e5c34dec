#include "server/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace infercache::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// What a user says, and what comes of it.
class Options : public testing::Test {
 protected:
  Options() {
    std::string pattern = testing::TempDir() + "infercache_options.XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~Options() override {
    for (const std::string& path : files_) unlink(path.c_str());
    rmdir(directory_.c_str());
  }

  std::string File(const std::string& name, const std::string& content) {
    files_.push_back(directory_ + "/" + name);
    std::ofstream(files_.back()) << content;
    return files_.back();
  }
  absl::StatusOr<CommandLine> Parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "infercached");
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
  }
  absl::StatusOr<LoadedConfig> Load(const std::vector<std::string>& arguments,
                                    const std::vector<std::string>& environment = {}) {
    const auto command_line = Parse(arguments);
    if (!command_line.ok()) return command_line.status();
    std::vector<const char*> variables;
    for (const std::string& variable : environment) variables.push_back(variable.c_str());
    variables.push_back(nullptr);
    return LoadConfig(*command_line, variables.data());
  }
  std::string UsageError(const std::vector<std::string>& arguments) {
    const auto parsed = Parse(arguments);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(parsed.status().message());
  }
  std::string ConfigError(const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment = {}) {
    const auto loaded = Load(arguments, environment);
    EXPECT_FALSE(loaded.ok());
    return std::string(loaded.status().message());
  }

  std::string directory_;
  std::vector<std::string> files_;
};

TEST_F(Options, LooksUpWhoMayAdministrateOverTheSocket) {
  const auto ids = [this](const std::vector<std::string>& arguments) {
    return Load(arguments)->config.auth_socket_admin_ids;
  };
  EXPECT_EQ(ids({}), (LocalPeers{.everyone = false, .users = {0}}));
  EXPECT_EQ(ids({"--auth-socket-admins="}), (LocalPeers{.everyone = false}));
  EXPECT_EQ(ids({"--auth-socket-admins", "root, 12,@34"}),
            (LocalPeers{.everyone = false, .users = {0, 12}, .groups = {34}}));
  EXPECT_THAT(ConfigError({"--auth-socket-admins", "root,"}), HasSubstr("auth.socket_admins"));
  EXPECT_THAT(ConfigError({"--auth-socket-admins", "no such user"}),
              HasSubstr("auth.socket_admins: there is no user"));
}

TEST_F(Options, FlagsWinOverEnvironmentOverFileOverDefaults) {
  const std::string file = File("c.yaml",
                                "capacity: 3GiB\nlog: {level: debug, format: json}\n"
                                "drain_timeout: 3s\n");
  const auto loaded = Load({"--config", file, "--capacity", "5GiB"},
                           {"INFERCACHE_CAPACITY=4GiB", "INFERCACHE_LOG_LEVEL=warn"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.capacity_bytes, uint64_t{5} << 30) << "flag";
  EXPECT_EQ(loaded->config.log_level, "warn") << "environment";
  EXPECT_EQ(loaded->config.log_format, "json") << "file";
  EXPECT_EQ(loaded->config.grpc_listen, "127.0.0.1:7400") << "default";
  EXPECT_EQ(loaded->origins.at("capacity"), "--capacity");
  EXPECT_EQ(loaded->origins.at("log.level"), "INFERCACHE_LOG_LEVEL");
  EXPECT_EQ(loaded->origins.at("drain_timeout"), file + ":3");
}

TEST_F(Options, TheFileMayBeNamedInTheEnvironmentAndAFlagNamesAnother) {
  const std::string one = File("one.yaml", "capacity: 3GiB\n");
  const std::string two = File("two.yaml", "capacity: 6GiB\n");
  EXPECT_EQ(Load({}, {"INFERCACHE_CONFIG=" + one})->config.capacity_bytes, uint64_t{3} << 30);
  EXPECT_EQ(Load({"--config=" + two}, {"INFERCACHE_CONFIG=" + one})->config.capacity_bytes,
            uint64_t{6} << 30);
}

TEST_F(Options, WithoutAnythingThereIsOneOpenNamespaceOfHalfTheCapacity) {
  const auto loaded = Load({});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto namespaces = EffectiveNamespaces(loaded->config);
  ASSERT_EQ(namespaces.size(), 1u);
  EXPECT_EQ(namespaces[0].name, "default");
  EXPECT_EQ(namespaces[0].grpc, "open");
  EXPECT_EQ(namespaces[0].quota_bytes, loaded->config.capacity_bytes / 2);
}

TEST_F(Options, BooleansStandAloneOrWithAValue) {
  EXPECT_TRUE(Load({"--insecure-listen"})->config.insecure_listen);
  EXPECT_FALSE(Load({"--insecure-listen=false"})->config.insecure_listen);
  EXPECT_FALSE(Load({"--grpc-reflection=false"})->config.grpc_reflection);
  EXPECT_TRUE(Load({})->config.grpc_reflection);
}

TEST_F(Options, AnEmptyTextTurnsAnAddressOff) {
  const auto loaded = Load({"--socket", "", "--http-listen="});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.socket, "");
  EXPECT_EQ(loaded->config.http_listen, "");
}

TEST_F(Options, TheLastOfARepeatedFlagCounts) {
  EXPECT_EQ(Load({"--capacity=3GiB", "--capacity=4GiB"})->config.capacity_bytes, uint64_t{4} << 30);
}

TEST_F(Options, UsageErrorsNameTheFlag) {
  EXPECT_THAT(UsageError({"--capcity=1GiB"}), HasSubstr("did you mean --capacity?"));
  EXPECT_THAT(UsageError({"--capacity"}), HasSubstr("--capacity"));
  EXPECT_THAT(UsageError({"--capacity=lots"}), HasSubstr("--capacity: expected a size"));
  EXPECT_THAT(UsageError({"--grpc-reflection=perhaps"}), HasSubstr("--grpc-reflection"));
  EXPECT_THAT(UsageError({"serve"}), HasSubstr("serve"));
}

TEST_F(Options, EnvironmentErrorsNameTheVariable) {
  EXPECT_THAT(ConfigError({}, {"INFERCACHE_CAPACITY="}),
              HasSubstr("INFERCACHE_CAPACITY: expected a size"));
  EXPECT_THAT(
      ConfigError({}, {"INFERCACHE_LOG_LEVEL=loud", "INFERCACHE_DRAIN_TIMEOUT=3"}),
      testing::AllOf(HasSubstr("INFERCACHE_LOG_LEVEL: "), HasSubstr("INFERCACHE_DRAIN_TIMEOUT: ")));
}

TEST_F(Options, ALikelyTypingErrorInTheEnvironmentIsAWarning) {
  EXPECT_THAT(Load({}, {"INFERCACHE_CAPACTY=1GiB"})->warnings,
              ElementsAre(HasSubstr("did you mean INFERCACHE_CAPACITY?")));
  EXPECT_THAT(Load({}, {"INFERCACHE_SERVICE_HOST=10.0.0.1", "INFERCACHE_ENDPOINT=x"})->warnings,
              IsEmpty())
      << "Kubernetes and clients have variables of their own";
}

TEST_F(Options, RulesOverSeveralOptionsNameWhereTheValueCameFrom) {
  EXPECT_THAT(ConfigError({"--grpc-listen", "0.0.0.0:7400"}),
              HasSubstr("--grpc-listen: grpc.listen \"0.0.0.0:7400\" is not loopback"));
  EXPECT_TRUE(Load({"--grpc-listen", "0.0.0.0:7400", "--insecure-listen"}).ok());
  const std::string file = File("c.yaml", "store:\n  shards: 3\n");
  EXPECT_EQ(ConfigError({"--config", file}), file + ":2: store.shards must be a power of two");
}

TEST_F(Options, AMissingFileIsNamed) {
  EXPECT_THAT(ConfigError({"--config", "/does/not/exist"}), HasSubstr("/does/not/exist"));
}

TEST_F(Options, ATokenFileIsReadAndItsBlanksAreDropped) {
  const std::string token = File("token", "0123456789abcdef\n");
  const std::string file = File("c.yaml",
                                "auth:\n  credentials:\n    - {name: w, namespaces: ['*'], "
                                "token_file: " +
                                    token + "}\n");
  const auto loaded = Load({"--config", file});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.credentials[0].token, "0123456789abcdef");
}

TEST_F(Options, ABadTokenFileIsNamedWithItsLine) {
  const std::string missing =
      File("c.yaml", "auth:\n  credentials:\n    - {name: w, token_file: /does/not/exist}\n");
  EXPECT_THAT(ConfigError({"--config", missing}),
              testing::AllOf(HasSubstr(missing + ":3"), HasSubstr("/does/not/exist")));
}

TEST_F(Options, UsersAndGroupsBecomeNumbers) {
  const std::string file =
      File("c.yaml",
           "namespaces:\n"
           "  - {name: a, quota: 1MiB}\n"
           "  - {name: b, quota: 1MiB, local_users: [root, \"@root\"], local_writers: []}\n");
  const auto loaded = Load({"--config", file});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->config.namespaces[0].local_user_ids.everyone);
  const NamespaceConfig& b = loaded->config.namespaces[1];
  EXPECT_FALSE(b.local_user_ids.everyone);
  EXPECT_THAT(b.local_user_ids.users, ElementsAre(0u));
  EXPECT_THAT(b.local_user_ids.groups, ElementsAre(0u));
  EXPECT_FALSE(b.local_writer_ids.everyone);
}

TEST_F(Options, UnknownUsersAndGroupsAreErrorsWithTheirLine) {
  const std::string file = File("c.yaml",
                                "namespaces:\n"
                                "  - {name: a, quota: 1MiB, local_users: [nobody-has-this]}\n"
                                "  - {name: b, quota: 1MiB, local_writers: [\"@nor-this\"]}\n");
  const std::string error = ConfigError({"--config", file});
  EXPECT_THAT(error, HasSubstr(file + ":2: namespaces: \"a\": local_users: there is no user "
                                      "\"nobody-has-this\""));
  EXPECT_THAT(error, HasSubstr(file + ":3: namespaces: \"b\": local_writers: there is no group "
                                      "\"nor-this\""));
}

}  // namespace
}  // namespace infercache::server
