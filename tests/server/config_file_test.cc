#include "server/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace infercache::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

class ConfigFile : public testing::Test {
 protected:
  absl::Status Read(std::string_view yaml) {
    config_ = Config();
    origins_.clear();
    return ApplyYaml(yaml, "c.yaml", config_, origins_);
  }
  // The error's text; fails the test if there is none.
  std::string ErrorOf(std::string_view yaml) {
    const absl::Status status = Read(yaml);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << yaml;
    return std::string(status.message());
  }

  Config config_;
  Origins origins_;
};

TEST_F(ConfigFile, SetsNestedKeysAndRemembersTheirLines) {
  ASSERT_TRUE(Read("capacity: 1GiB\n"
                   "grpc:\n"
                   "  listen: 127.0.0.1:0\n"
                   "  reflection: no\n"
                   "drain_timeout: 250ms\n")
                  .ok());
  EXPECT_EQ(config_.capacity_bytes, uint64_t{1} << 30);
  EXPECT_EQ(config_.grpc_listen, "127.0.0.1:0");
  EXPECT_FALSE(config_.grpc_reflection);
  EXPECT_EQ(config_.drain_timeout_ms, 250u);
  EXPECT_EQ(origins_.at("grpc.reflection"), "c.yaml:4");
  EXPECT_FALSE(origins_.contains("socket"));
}

TEST_F(ConfigFile, ReadsNamespacesAndCredentials) {
  ASSERT_TRUE(Read("namespaces:\n"
                   "  - name: kv\n"
                   "    quota: 512MiB\n"
                   "    max_objects: 5000\n"
                   "    grpc: open\n"
                   "    require: {model: llama, dtype: bf16}\n"
                   "  - {name: out, quota: 1MiB}\n"
                   "auth:\n"
                   "  loopback_admin: all\n"
                   "  credentials:\n"
                   "    - {name: w, token: 0123456789abcdef, namespaces: [kv, out]}\n")
                  .ok());
  ASSERT_EQ(config_.namespaces.size(), 2u);
  EXPECT_EQ(config_.namespaces[0].quota_bytes, uint64_t{512} << 20);
  EXPECT_EQ(config_.namespaces[0].max_objects, 5000u);
  EXPECT_EQ(config_.namespaces[0].grpc, "open");
  EXPECT_THAT(config_.namespaces[0].require,
              ElementsAre(Pair("model", "llama"), Pair("dtype", "bf16")));
  EXPECT_EQ(config_.namespaces[1].origin, "c.yaml:7");
  EXPECT_EQ(config_.namespaces[1].grpc, "credential") << "closed unless the file opens it";
  EXPECT_EQ(config_.auth_loopback_admin, "all");
  ASSERT_EQ(config_.credentials.size(), 1u);
  EXPECT_THAT(config_.credentials[0].namespaces, ElementsAre("kv", "out"));
  EXPECT_FALSE(config_.credentials[0].admin);
}

TEST_F(ConfigFile, AnEmptyFileAndAnEmptySectionChangeNothing) {
  EXPECT_TRUE(Read("").ok());
  EXPECT_TRUE(Read("# nothing\n").ok());
  EXPECT_TRUE(Read("grpc:\n").ok());
}

TEST_F(ConfigFile, NamesTheLineAndTheNearestKeyOfAnUnknownOne) {
  EXPECT_EQ(ErrorOf("capacity: 1GiB\ngrpc:\n  listn: 127.0.0.1:1\n"),
            "c.yaml:3: grpc.listn: unknown key; did you mean \"grpc.listen\"?");
  EXPECT_EQ(ErrorOf("\nwhatever: 1\n"), "c.yaml:2: whatever: unknown key");
  EXPECT_EQ(ErrorOf("namespaces:\n  - name: a\n    qouta: 1MiB\n"),
            "c.yaml:3: namespaces[0].qouta: unknown key; did you mean \"namespaces[0].quota\"?");
}

TEST_F(ConfigFile, NamesTheLineOfAWrongType) {
  EXPECT_THAT(ErrorOf("capacity: [1GiB]\n"), HasSubstr("c.yaml:1: capacity: expected one value"));
  EXPECT_THAT(ErrorOf("capacity:\n"), HasSubstr("capacity: expected one value"));
  EXPECT_THAT(ErrorOf("capacity: lots\n"), HasSubstr("expected a size such as 512MiB"));
  EXPECT_THAT(ErrorOf("drain_timeout: 30\n"), HasSubstr("expected a duration such as 100ms"));
  EXPECT_THAT(ErrorOf("grpc: 7\n"), HasSubstr("c.yaml:1: grpc: expected a map"));
  EXPECT_THAT(ErrorOf("namespaces: {a: 1}\n"), HasSubstr("namespaces: expected a list"));
  EXPECT_THAT(ErrorOf("namespaces:\n  - kv\n"),
              HasSubstr("c.yaml:2: namespaces[0]: expected a map"));
  EXPECT_THAT(ErrorOf("namespaces:\n  - require: [a]\n"), HasSubstr("expected a map"));
  EXPECT_THAT(ErrorOf("auth:\n  credentials:\n    - namespaces: kv\n"),
              HasSubstr("c.yaml:3: auth.credentials[0].namespaces: expected a list"));
  EXPECT_THAT(ErrorOf("- a\n- b\n"), HasSubstr("the file: expected a map"));
  EXPECT_THAT(ErrorOf("? [a, b]\n: 1\n"), HasSubstr("a key must be a plain text"));
}

TEST_F(ConfigFile, NamesTheLineOfAValueOutOfBounds) {
  EXPECT_EQ(ErrorOf("a: 1\nstore:\n  shards: 4097\n"),
            "c.yaml:1: a: unknown key\nc.yaml:3: store.shards: must be between 1 and 4096");
  EXPECT_TRUE(Read("store:\n  shards: 4096\n").ok());
  EXPECT_THAT(ErrorOf("capacity: 1000\n"), HasSubstr("must be between 1MiB and 64TiB"));
  EXPECT_THAT(ErrorOf("log:\n  level: loud\n"),
              HasSubstr("expected trace, debug, info, warn, error"));
}

TEST_F(ConfigFile, ReportsEveryErrorAtOnce) {
  const std::string errors = ErrorOf("capacity: x\ncapacity: 1GiB\nfoo: 1\ndrain_timeout: x\n");
  EXPECT_THAT(errors, HasSubstr("c.yaml:1: capacity: expected"));
  EXPECT_THAT(errors, HasSubstr("c.yaml:2: capacity: is given twice"));
  EXPECT_THAT(errors, HasSubstr("c.yaml:3: foo: unknown key"));
  EXPECT_THAT(errors, HasSubstr("c.yaml:4: drain_timeout: expected"));
}

TEST_F(ConfigFile, NamesTheLineOfASyntaxError) {
  EXPECT_THAT(ErrorOf("capacity: 1GiB\nb: }\n"), HasSubstr("c.yaml:2:"));
  EXPECT_THAT(ErrorOf("a: b: c\n"), HasSubstr("c.yaml:1:"));
  EXPECT_THAT(ErrorOf("capacity: 1GiB\n---\ncapacity: 2GiB\n"),
              HasSubstr("more than one YAML document"));
}

// yaml-cpp finds empty documents there without end, until there is no more memory.
TEST_F(ConfigFile, SurvivesADocumentThatBeginsWithAComma) {
  EXPECT_THAT(ErrorOf(","), HasSubstr("c.yaml:1:1: "));
  EXPECT_THAT(ErrorOf("capacity: 1GiB\n---\n,"), HasSubstr("c.yaml:2:"));
}

TEST_F(ConfigFile, SurvivesDeepNesting) {
  std::string deep(100'000, '[');
  EXPECT_FALSE(Read(deep).ok());
}

TEST(ReadSmallFile, NamesThePathOfWhatCannotBeRead) {
  const auto content = ReadSmallFile("/does/not/exist.yaml");
  EXPECT_EQ(content.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(content.status().message()), HasSubstr("/does/not/exist.yaml"));
  EXPECT_FALSE(ReadSmallFile("/").ok());
  EXPECT_THAT(std::string(ReadSmallFile("/dev/zero").status().message()),
              HasSubstr("/dev/zero is longer than 1MiB"));
}

TEST_F(ConfigFile, ListsOfPeersReplaceTheirDefault) {
  ASSERT_TRUE(Read("namespaces:\n"
                   "  - {name: a, quota: 1MiB}\n"
                   "  - {name: b, quota: 1MiB, local_users: [root, 1000, \"@adm\"]}\n"
                   "  - {name: c, quota: 1MiB, local_writers: []}\n")
                  .ok());
  EXPECT_THAT(config_.namespaces[0].local_users, ElementsAre("*"));
  EXPECT_THAT(config_.namespaces[0].local_writers, ElementsAre("*"));
  EXPECT_THAT(config_.namespaces[1].local_users, ElementsAre("root", "1000", "@adm"));
  EXPECT_THAT(config_.namespaces[2].local_writers, testing::IsEmpty());
}

}  // namespace
}  // namespace infercache::server
