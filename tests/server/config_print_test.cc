#include "server/config_print.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "server/config_file.h"
#include "server/metrics_table.h"
#include "server/options.h"

namespace infercache::server {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(PrintConfig, IsReadBackUnchanged) {
  Config config;
  config.capacity_bytes = 10'000'000'000;
  config.drain_timeout_ms = 1500;
  config.socket = "/tmp/with \"quotes\" and \\.sock";
  config.grpc_reflection = false;
  NamespaceConfig ns;
  ns.name = "kv";
  ns.quota_bytes = 3 << 20;
  ns.grpc = "open";
  ns.require = {{"model", "a: b"}};
  config.namespaces = {ns};
  CredentialConfig credential;
  credential.name = "w";
  credential.certificate_name = "worker";
  credential.namespaces = {"kv", "*"};
  config.credentials = {credential};

  const std::string text = PrintConfig(config);
  Config read;
  Origins origins;
  ASSERT_TRUE(ApplyYaml(text, "printed", read, origins).ok()) << text;
  for (const auto& field : ConfigFields()) {
    EXPECT_EQ(ValueText(field, read), ValueText(field, config)) << field.key;
    EXPECT_THAT(text, HasSubstr(std::string(field.key.substr(field.key.rfind('.') + 1)) + ": "));
  }
  ASSERT_EQ(read.namespaces.size(), 1u);
  for (const auto& field : NamespaceFields()) {
    EXPECT_EQ(ValueText(field, read.namespaces[0]), ValueText(field, ns)) << field.key;
  }
  ASSERT_EQ(read.credentials.size(), 1u);
  for (const auto& field : CredentialFields()) {
    EXPECT_EQ(ValueText(field, read.credentials[0]), ValueText(field, credential)) << field.key;
  }
}

TEST(PrintConfig, ShowsNoSecret) {
  Config config;
  CredentialConfig inline_token, token_file;
  inline_token.name = "a";
  inline_token.token = "secret-secret-secret";
  token_file.name = "b";
  token_file.token = "secret-secret-other!";  // read from the file
  token_file.token_file = "/run/token";
  config.credentials = {inline_token, token_file};
  const std::string text = PrintConfig(config);
  EXPECT_THAT(text, Not(HasSubstr("secret-secret")));
  EXPECT_THAT(text, HasSubstr("token: \"<redacted>\""));
  EXPECT_THAT(text, HasSubstr("token_file: \"/run/token\""));
}

TEST(HelpText, NamesEveryFlag) {
  const std::string help = HelpText();
  for (const auto& field : ConfigFields()) {
    EXPECT_THAT(help, HasSubstr("  " + FlagName(field.key)));
  }
  for (const char* flag :
       {"--help", "--version", "--config FILE", "--check-config", "--print-config"}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
}

// The pages hold what the tables generate between two marks. After a change of a table run this
// test with INFERCACHE_UPDATE_DOCS=1, which writes them.
class GeneratedPart : public testing::Test {
 protected:
  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  static void ExpectIn(const std::string& path, const std::string& name,
                       const std::string& generated) {
    const std::string begin = "<!-- generated: " + name + " -->\n";
    const std::string end = "<!-- end of generated: " + name + " -->\n";
    std::string page = Read(path);
    const size_t from = page.find(begin);
    const size_t to = page.find(end);
    ASSERT_NE(from, std::string::npos) << "no mark for " << name << " in " << path;
    ASSERT_NE(to, std::string::npos) << "no end mark for " << name << " in " << path;
    const size_t start = from + begin.size();
    if (std::getenv("INFERCACHE_UPDATE_DOCS") != nullptr) {
      page.replace(start, to - start, generated);
      std::ofstream(path) << page;
      return;
    }
    EXPECT_EQ(page.substr(start, to - start), generated)
        << "run this test with INFERCACHE_UPDATE_DOCS=1";
  }
};

TEST_F(GeneratedPart, OptionTable) {
  ExpectIn(INFERCACHE_OPERATIONS_PAGE, "configuration", ConfigReference());
}
TEST_F(GeneratedPart, MetricTable) {
  ExpectIn(INFERCACHE_METRICS_PAGE, "metrics", MetricReference());
}

}  // namespace
}  // namespace infercache::server
