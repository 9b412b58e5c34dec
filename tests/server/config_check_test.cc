#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "common/limits.h"
#include "server/config.h"

namespace infercache::server {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

NamespaceConfig Namespace(const std::string& name, uint64_t quota_bytes = 1 << 20) {
  NamespaceConfig ns;
  ns.name = name;
  ns.quota_bytes = quota_bytes;
  ns.origin = "c.yaml:1";
  return ns;
}

CredentialConfig Credential(const std::string& name, const std::string& token) {
  CredentialConfig credential;
  credential.name = name;
  credential.token = token;
  credential.namespaces = {"*"};
  credential.origin = "c.yaml:9";
  return credential;
}

auto Complains(const std::string& key, const std::string& text) {
  return Contains(AllOf(testing::Field(&ConfigProblem::key, HasSubstr(key)),
                        testing::Field(&ConfigProblem::text, HasSubstr(text))));
}

TEST(CheckConfig, DefaultsMakeSense) { EXPECT_THAT(CheckConfig(Config()), IsEmpty()); }

TEST(ConfigWarnings, TellWhereTheSocketOpensWhatACredentialCloses) {
  EXPECT_THAT(ConfigWarnings(Config()), IsEmpty()) << "the built-in namespace is open to loopback";
  Config config;
  config.namespaces = {Namespace("kv")};
  EXPECT_THAT(ConfigWarnings(config),
              testing::ElementsAre(AllOf(HasSubstr("c.yaml:1: namespaces: \"kv\""),
                                         HasSubstr("name its local_users"))));
  config.namespaces[0].local_user_ids = {.everyone = false, .users = {1}};
  EXPECT_THAT(ConfigWarnings(config), IsEmpty());
  config.namespaces[0].local_user_ids = {};
  config.namespaces[0].grpc = "open";
  EXPECT_THAT(ConfigWarnings(config), IsEmpty()) << "nothing is closed";
  config.namespaces[0].grpc = "credential";
  config.socket = "";
  EXPECT_THAT(ConfigWarnings(config), IsEmpty()) << "there is no such lane";
}

TEST(CheckConfig, QuotasFitIntoTheCapacity) {
  Config config;
  config.capacity_bytes = 3 << 20;
  config.namespaces = {Namespace("a", 1 << 20), Namespace("b", 2 << 20)};
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  config.namespaces[1].quota_bytes += 1;
  EXPECT_THAT(CheckConfig(config), Complains("namespaces", "more than the capacity of 3MiB"));
  config.namespaces.clear();
  config.default_quota_bytes = 4 << 20;
  EXPECT_THAT(CheckConfig(config), Complains("default_quota", "more than the capacity"));
}

constexpr char kGpu[] = "GPU-0123abcd-4567-89ef-0000-ffeeddccbbaa";

TEST(CheckConfig, DevicesAreUuidsWithSizes) {
  Config config;
  config.namespaces = {Namespace("a")};
  config.namespaces[0].devices = {{kGpu, "2MiB"}, {"auto", "64TiB"}};
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  for (const auto& [device, size, complaint] :
       {std::tuple("0", "1GiB", "is no GPU's UUID"), std::tuple(kGpu, "", "the device GPU-"),
        std::tuple(kGpu, "2097151", "must be between 2MiB and 64TiB"),
        std::tuple("auto", "65TiB", "must be between 2MiB and 64TiB")}) {
    config.namespaces[0].devices = {{device, size}};
    EXPECT_THAT(CheckConfig(config), Complains("c.yaml:1", complaint)) << device << size;
  }
  config.namespaces[0].devices = {{kGpu, "1GiB"}, {"MIG-" + std::string(kGpu + 4), "1GiB"}};
  EXPECT_THAT(CheckConfig(config), Complains("c.yaml:1", "is given twice"));
}

TEST(CheckConfig, DevicesOfTheBuiltInNamespaceAreOneText) {
  Config config;
  config.default_devices = std::string(kGpu) + "=8GiB,auto=1GiB";
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  const auto devices = ParseDevices(EffectiveNamespaces(config)[0].devices);
  ASSERT_TRUE(devices.ok());
  ASSERT_EQ(devices->size(), 2u);
  EXPECT_EQ(devices->at(0).device, kGpu);
  EXPECT_EQ(devices->at(0).bytes, uint64_t{8} << 30);
  EXPECT_EQ(devices->at(1).device, "auto");
  for (const char* wrong : {"auto", "=1GiB", "auto=1GiB,", "auto=1GiB auto=2GiB"}) {
    config.default_devices = wrong;
    EXPECT_THAT(CheckConfig(config), Complains("default_devices", "")) << wrong;
  }
  config.default_devices = "auto=1GiB";
  config.namespaces = {Namespace("a")};
  EXPECT_THAT(CheckConfig(config), Complains("default_devices", "no meaning beside a list"));
}

TEST(CheckConfig, NamespaceNamesAreCheckedAndUnique) {
  for (const std::string& bad : {std::string(), std::string("A"), std::string("a b"),
                                 std::string(kMaxNamespaceNameBytes + 1, 'a')}) {
    Config config;
    config.namespaces = {Namespace(bad)};
    EXPECT_THAT(CheckConfig(config), Complains("c.yaml:1", "must be 1 to 64 of [a-z0-9._-]"));
  }
  Config config;
  config.namespaces = {Namespace(std::string(kMaxNamespaceNameBytes, 'a')), Namespace("a.b_c-1")};
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  config.namespaces.push_back(Namespace("a.b_c-1"));
  EXPECT_THAT(CheckConfig(config), Complains("namespaces", "listed twice"));
  config.namespaces = {Namespace("a", 0)};
  EXPECT_THAT(CheckConfig(config), Complains("namespaces", "has no quota"));
}

TEST(CheckConfig, TlsFilesComeTogether) {
  Config config;
  config.tls_cert_file = "cert.pem";
  EXPECT_THAT(CheckConfig(config), Complains("tls.key_file", "come together"));
  config.tls_key_file = "key.pem";
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  config.grpc_listen = "0.0.0.0:7400";
  EXPECT_THAT(CheckConfig(config), IsEmpty()) << "TLS permits any address";
  config.tls_cert_file = config.tls_key_file = "";
  EXPECT_THAT(CheckConfig(config), Complains("grpc.listen", "not loopback"));
  config.insecure_listen = true;
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  config.tls_client_ca_file = "ca.pem";
  EXPECT_THAT(CheckConfig(config), Complains("tls.client_ca_file", "without tls.cert_file"));
}

TEST(CheckConfig, SomebodyMustBeAbleToConnect) {
  Config config;
  config.grpc_listen = "";
  EXPECT_THAT(CheckConfig(config), IsEmpty()) << "the socket is left";
  config.socket = "";
  EXPECT_THAT(CheckConfig(config), Complains("grpc.listen", "nobody could connect"));
}

TEST(CheckConfig, CredentialsAreOfOneKindUniqueAndUseful) {
  const std::string token = "0123456789abcdef";
  Config config;
  config.credentials = {Credential("a", token)};
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  config.credentials.push_back(Credential("a", "fedcba9876543210"));
  EXPECT_THAT(CheckConfig(config), Complains("c.yaml:9", "\"a\" is listed twice"));
  config.credentials[1] = Credential("b", token);
  EXPECT_THAT(CheckConfig(config), Complains("c.yaml:9", "has the token of another"));
  for (const char* bad : {"0123456789abcde", "0123456789 abcdef", "<redacted-token>"}) {
    config.credentials = {Credential("a", bad)};
    EXPECT_THAT(CheckConfig(config), Complains("auth.credentials", "visible ASCII")) << bad;
  }
  config.credentials = {Credential("a", "")};
  EXPECT_THAT(CheckConfig(config), Complains("auth.credentials", "needs either"));
  config.credentials = {Credential("a", token)};
  config.credentials[0].certificate_name = "worker";
  EXPECT_THAT(CheckConfig(config), Complains("auth.credentials", "needs either"));
  config.credentials[0].token = "";
  EXPECT_THAT(CheckConfig(config), Complains("auth.credentials", "no tls.client_ca_file"));
  config.credentials = {Credential("a", token)};
  config.credentials[0].namespaces = {};
  EXPECT_THAT(CheckConfig(config), Complains("auth.credentials", "may do nothing"));
  config.credentials[0].admin = true;
  EXPECT_THAT(CheckConfig(config), IsEmpty());
  config.credentials[0].namespaces = {"Not A Name"};
  EXPECT_THAT(CheckConfig(config), Complains("auth.credentials", "cannot exist"));
}

TEST(FilesNeeded, CountsConnectionsSessionsAndChunks) {
  Config config;
  const uint64_t before = FilesNeeded(config);
  config.grpc_max_connections += 10;
  EXPECT_EQ(FilesNeeded(config), before + 20);
  config.local_max_sessions += 10;
  EXPECT_EQ(FilesNeeded(config), before + 60);
  config.capacity_bytes += 7 * config.chunk_bytes;
  EXPECT_EQ(FilesNeeded(config), before + 67);
  EXPECT_GT(before, 2 * kMaxQuarantinedSessions + kMaxLentAllocations + kMaxUnclosedDescriptors);
}

TEST(FilesNeeded, CountsTheChunksOfTiers) {
  Config config;
  const auto with_tier = [&config](uint64_t chunk_bytes, const char* size) {
    config.chunk_bytes = chunk_bytes;
    config.namespaces.clear();
    const uint64_t before = FilesNeeded(config);
    config.namespaces = {Namespace("kv")};
    config.namespaces[0].devices = {{"auto", size}};
    return FilesNeeded(config) - before;
  };
  EXPECT_EQ(with_tier(uint64_t{64} << 20, "10GiB"), 160u + 2);
  EXPECT_EQ(with_tier(uint64_t{8} << 30, "10GiB"), 10u + 2) << "of at most 1 GiB";
}

TEST(SameNamespaces, SeesWhoMayUseThem) {
  Config a, b;
  a.namespaces = b.namespaces = {Namespace("a")};
  EXPECT_TRUE(SameNamespaces(a, b));
  b.namespaces[0].local_writers.clear();
  EXPECT_FALSE(SameNamespaces(a, b));
  b.namespaces = a.namespaces;
  b.namespaces[0].local_user_ids.users = {7};
  EXPECT_FALSE(SameNamespaces(a, b)) << "a name means another number now";
}

}  // namespace
}  // namespace infercache::server
