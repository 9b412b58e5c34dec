// Who may call what, and what the others are told.

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "common/unique_fd.h"
#include "server/rpc/address.h"
#include "tests/rpc/rpc_fixture.h"
#include "tests/rpc/test_certificates.h"

namespace infercache::rpc {
namespace {

using grpc::StatusCode;

class AuthTest : public RpcTest {
 protected:
  AuthTest() {
    options.credentials = {
        WithToken("team a", "token-a", {"default", "closed"}),
        WithToken("team b", "token-b", {"b"}),
        WithToken("root", "token-root", {"*"}),
        WithToken("worker", "", {"closed"}),
    };
    options.credentials[2].admin = true;
    options.credentials[3].certificate_name = "worker-1";
  }

  static Credential WithToken(const std::string& name, const std::string& token,
                              const std::vector<std::string>& namespaces = {}) {
    Credential credential;
    credential.name = name;
    credential.bearer_token = token;
    credential.namespaces = namespaces;
    return credential;
  }

  void StartWithClosedNamespace() {
    Start();
    store::NamespaceSpec closed = OpenNamespace("closed", kMiB);
    closed.grpc_open = false;
    ASSERT_TRUE(store->CreateNamespace(closed).ok());
  }

  // What a call in `ns` with this authorization header (none if empty) ends with.
  grpc::Status Touch(const std::string& ns, const std::string& authorization) {
    grpc::ClientContext context;
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    v1::TouchRequest request;
    request.mutable_scope()->set_namespace_(ns);
    request.add_keys("k");
    v1::TouchResponse response;
    return cache->Touch(&context, request, &response);
  }

  grpc::Status GetInfo(const std::string& authorization) {
    grpc::ClientContext context;
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    v1::GetInfoResponse response;
    return admin->GetInfo(&context, {}, &response);
  }

  grpc::Status Flush(const std::string& authorization) {
    grpc::ClientContext context;
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    v1::FlushRequest request;
    request.set_namespace_("default");
    v1::FlushResponse response;
    return admin->Flush(&context, request, &response);
  }

  void ExpectRefused(const grpc::Status& status, StatusCode code, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(ReasonOf(status), reason) << status.error_message();
    EXPECT_FALSE(status.error_message().empty());
    EXPECT_THAT(status.error_message(), ::testing::Not(::testing::HasSubstr("token-")));
  }

  std::shared_ptr<grpc::Channel> ConnectTls(const char* certificate, const char* key) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = kTestCa;
    if (certificate != nullptr) {
      ssl.pem_cert_chain = certificate;
      ssl.pem_private_key = key;
    }
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(server->addresses()[0], grpc::SslCredentials(ssl), arguments);
  }
};

TEST_F(AuthTest, LoopbackWithoutCredentialUsesOpenNamespacesOnly) {
  StartWithClosedNamespace();
  EXPECT_TRUE(Touch("", "").ok());
  EXPECT_TRUE(Touch("default", "").ok());
  ExpectRefused(Touch("closed", ""), StatusCode::UNAUTHENTICATED, "CREDENTIAL_MISSING");
  ExpectRefused(Touch("none", ""), StatusCode::NOT_FOUND, "NAMESPACE_NOT_FOUND");
}

TEST_F(AuthTest, ATokenOpensItsNamespacesAndNoOthers) {
  StartWithClosedNamespace();
  EXPECT_TRUE(Touch("closed", "Bearer token-a").ok());
  EXPECT_TRUE(Touch("closed", "bearer token-root").ok());
  ExpectRefused(Touch("closed", "Bearer token-b"), StatusCode::PERMISSION_DENIED, "NOT_ALLOWED");
  // Whether a namespace exists is nobody's business who may not use it.
  ExpectRefused(Touch("none", "Bearer token-a"), StatusCode::PERMISSION_DENIED, "NOT_ALLOWED");
  ExpectRefused(Touch("b", "Bearer token-b"), StatusCode::NOT_FOUND, "NAMESPACE_NOT_FOUND");
}

TEST_F(AuthTest, AnUnknownTokenIsRefusedEvenWhereNoneIsNeeded) {
  StartWithClosedNamespace();
  for (const char* header : {"Bearer wrong", "Bearer token-a2", "Bearer token-", "Bearer ",
                             "token-a", "Basic token-a"}) {
    ExpectRefused(Touch("default", header), StatusCode::UNAUTHENTICATED, "CREDENTIAL_UNKNOWN");
    ExpectRefused(GetInfo(header), StatusCode::UNAUTHENTICATED, "CREDENTIAL_UNKNOWN");
  }
}

TEST_F(AuthTest, AdministrationTakesAPermittedPeerOrAnAdminCredential) {
  Start();
  EXPECT_TRUE(GetInfo("").ok());
  EXPECT_TRUE(Flush("").ok());
  EXPECT_TRUE(GetInfo("Bearer token-root").ok());
  ExpectRefused(GetInfo("Bearer token-a"), StatusCode::PERMISSION_DENIED, "NOT_ALLOWED");
}

TEST_F(AuthTest, ByDefaultLoopbackPeersMayAskAndChangeNothing) {
  options.loopback_admin = RpcOptions().loopback_admin;
  StartWithClosedNamespace();
  EXPECT_TRUE(GetInfo("").ok());
  grpc::ClientContext stats, list, create, remove, policy, level, drain;
  v1::GetStatsResponse stats_response;
  EXPECT_TRUE(admin->GetStats(&stats, {}, &stats_response).ok());
  v1::ListNamespacesResponse list_response;
  EXPECT_TRUE(admin->ListNamespaces(&list, {}, &list_response).ok());

  const auto refused = [this](const grpc::Status& status) {
    ExpectRefused(status, StatusCode::UNAUTHENTICATED, "CREDENTIAL_MISSING");
  };
  refused(Flush(""));
  v1::CreateNamespaceResponse created;
  refused(admin->CreateNamespace(&create, {}, &created));
  v1::DeleteNamespaceResponse deleted;
  refused(admin->DeleteNamespace(&remove, {}, &deleted));
  v1::SetPolicyResponse set;
  refused(admin->SetPolicy(&policy, {}, &set));
  v1::SetLogLevelResponse level_response;
  refused(admin->SetLogLevel(&level, {}, &level_response));
  v1::DrainResponse drained;
  refused(admin->Drain(&drain, {}, &drained));
  EXPECT_TRUE(Flush("Bearer token-root").ok());
}

TEST_F(AuthTest, AdministrationFromLoopbackCanBeSwitchedOff) {
  options.loopback_admin = AdminRight::kNone;
  Start();
  ExpectRefused(GetInfo(""), StatusCode::UNAUTHENTICATED, "CREDENTIAL_MISSING");
  EXPECT_TRUE(GetInfo("Bearer token-root").ok());
}

TEST_F(AuthTest, AClientCertificateIsACredential) {
  options.tls = TlsConfig{.certificate_pem = kServerCertificate,
                          .private_key_pem = kServerKey,
                          .client_ca_pem = kTestCa};
  StartWithClosedNamespace();
  cache = v1::Cache::NewStub(ConnectTls(kWorkerCertificate, kWorkerKey));
  EXPECT_TRUE(Touch("closed", "").ok());
  ExpectRefused(Touch("default", ""), StatusCode::PERMISSION_DENIED, "NOT_ALLOWED");
  cache = v1::Cache::NewStub(ConnectTls(kStrangerCertificate, kStrangerKey));
  ExpectRefused(Touch("closed", ""), StatusCode::UNAUTHENTICATED, "CREDENTIAL_UNKNOWN");
  cache = v1::Cache::NewStub(ConnectTls(nullptr, nullptr));
  ExpectRefused(Touch("closed", ""), StatusCode::UNAUTHENTICATED, "CREDENTIAL_MISSING");
  EXPECT_TRUE(Touch("closed", "Bearer token-a").ok());
  // Plain text does not get as far as a call.
  cache = v1::Cache::NewStub(Connect(server->addresses()[0]));
  EXPECT_EQ(Touch("default", "").error_code(), StatusCode::UNAVAILABLE);
}

// gRPC gives both connections one name; what the one may do must not pass to the other.
TEST_F(AuthTest, TwoConnectionsOfOneNameAreNotServed) {
  options.listen = {"0.0.0.0:0"};
  options.insecure_listen = true;
  Start();
  const std::string port = server->addresses()[0].substr(server->addresses()[0].rfind(':') + 1);
  const auto connect_to = [&port](const std::string& host, SocketAddress& from) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    auto* name = reinterpret_cast<sockaddr*>(&from.storage);
    EXPECT_EQ(bind(fd.get(), name, from.size), 0) << strerror(errno);
    getsockname(fd.get(), name, &from.size);
    const SocketAddress to = *ParseAddress(host + ":" + port);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&to.storage), to.size), 0)
        << strerror(errno);
    return fd;
  };
  SocketAddress from = *ParseAddress("127.0.0.1:0");
  const UniqueFd first = connect_to("127.0.0.1", from);
  ASSERT_TRUE(Eventually([this] { return server->stats().connections == 1; }));
  const UniqueFd second = connect_to("127.0.0.2", from);
  char byte;
  EXPECT_LE(recv(second.get(), &byte, 1, 0), 0) << "it was served";
  EXPECT_EQ(server->stats().connections, 1u);
  EXPECT_EQ(recv(first.get(), &byte, 1, 0), 1) << "the first one goes on: HTTP/2 settings";
}

TEST_F(AuthTest, NewCredentialsHoldForOpenConnectionsToo) {
  StartWithClosedNamespace();
  EXPECT_TRUE(Touch("closed", "Bearer token-a").ok());
  ASSERT_TRUE(server->SetCredentials({WithToken("team a", "token-new", {"closed"})}).ok());
  ExpectRefused(Touch("closed", "Bearer token-a"), StatusCode::UNAUTHENTICATED,
                "CREDENTIAL_UNKNOWN");
  EXPECT_TRUE(Touch("closed", "Bearer token-new").ok());
  EXPECT_EQ(server->SetCredentials({WithToken("x", "")}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Touch("closed", "Bearer token-new").ok()) << "nothing has changed";
}

TEST_F(AuthTest, ARenewedCertificateIsUsedByNewConnections) {
  const std::string directory = ::testing::TempDir();
  const auto write = [&directory](const std::string& name, const char* pem) {
    const std::string path = directory + "/" + name;
    std::ofstream(path + ".new") << pem;
    EXPECT_EQ(std::rename((path + ".new").c_str(), path.c_str()), 0);
    return path;
  };
  options.tls = TlsConfig{.certificate_pem = kServerCertificate,
                          .private_key_pem = kServerKey,
                          .client_ca_pem = kTestCa,
                          .certificate_file = write("auth_cert.pem", kServerCertificate),
                          .private_key_file = write("auth_key.pem", kServerKey),
                          .client_ca_file = write("auth_ca.pem", kTestCa),
                          .reload_interval = absl::Seconds(1)};
  StartWithClosedNamespace();
  const auto served = [this] {
    cache = v1::Cache::NewStub(ConnectTls(kWorkerCertificate, kWorkerKey));
    return Touch("closed", "").ok();
  };
  EXPECT_TRUE(served());
  // One that is for no host: nobody accepts it any more, which shows that it is used.
  write("auth_key.pem", kWorkerKey);
  write("auth_cert.pem", kWorkerCertificate);
  EXPECT_TRUE(Eventually([&] { return !served(); }));
  write("auth_key.pem", kServerKey);
  write("auth_cert.pem", kServerCertificate);
  EXPECT_TRUE(Eventually(served));
}

class StartTest : public AuthTest {
 protected:
  void ExpectStartFails(absl::StatusCode code, const std::string& what) {
    store = std::make_unique<store::Store>(store::StoreOptions{.capacity_bytes = kMiB}, clock);
    const auto started = RpcServer::Start(options, *store, {});
    EXPECT_EQ(started.status().code(), code) << started.status();
    EXPECT_THAT(std::string(started.status().message()), ::testing::HasSubstr(what));
  }
};

TEST_F(StartTest, RefusesAnOpenAddressWithoutTls) {
  for (const char* address : {"0.0.0.0:0", "[::]:0"}) {
    options.listen = {"127.0.0.1:0", address};
    ExpectStartFails(absl::StatusCode::kInvalidArgument, address);
  }
  options.insecure_listen = true;
  Start();
  EXPECT_EQ(server->addresses().size(), 2u);
}

TEST_F(StartTest, NamesThePortInUse) {
  Start();
  options.listen = server->addresses();
  ExpectStartFails(absl::StatusCode::kAlreadyExists, options.listen[0]);
  server.reset();
}

TEST_F(StartTest, SaysWhatIsWrongWithKeyMaterial) {
  const TlsConfig good = {.certificate_pem = kServerCertificate,
                          .private_key_pem = kServerKey,
                          .client_ca_pem = kTestCa};
  TlsConfig bad = good;
  bad.certificate_pem = "no certificate";
  options.tls = bad;
  ExpectStartFails(absl::StatusCode::kInvalidArgument, "tls.certificate_pem");
  bad = good;
  bad.private_key_pem = "no key";
  options.tls = bad;
  ExpectStartFails(absl::StatusCode::kInvalidArgument, "tls.private_key_pem");
  bad.private_key_pem = kWorkerKey;
  options.tls = bad;
  ExpectStartFails(absl::StatusCode::kInvalidArgument, "does not belong");
  bad = good;
  bad.client_ca_pem = kServerKey;
  options.tls = bad;
  ExpectStartFails(absl::StatusCode::kInvalidArgument, "tls.client_ca_pem");
}

TEST_F(StartTest, RefusesCredentialsThatCannotWork) {
  const std::pair<std::vector<Credential>, const char*> cases[] = {
      {{WithToken("x", "")}, "\"x\""},
      {{WithToken("x", "t"), WithToken("y", "t")}, "\"y\""},
      {{WithToken("x", "t"), WithToken("x", "u")}, "same name"},
      {{WithToken("", "t")}, "no name"}};
  for (const auto& [credentials, what] : cases) {
    options.credentials = credentials;
    ExpectStartFails(absl::StatusCode::kInvalidArgument, what);
  }
}

TEST_F(StartTest, RefusesLimitsOutOfRange) {
  options.max_message_bytes = 1;
  ExpectStartFails(absl::StatusCode::kInvalidArgument, "max_message_bytes");
  options.max_message_bytes = kMiB;
  options.max_connections = 0;
  ExpectStartFails(absl::StatusCode::kInvalidArgument, "max_connections");
}

}  // namespace
}  // namespace infercache::rpc
