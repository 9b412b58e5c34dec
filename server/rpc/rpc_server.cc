#include "server/rpc/rpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/server_posix.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/background.h"
#include "common/status_macros.h"
#include "server/rpc/acceptor.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/auth.h"
#include "server/rpc/cache_service.h"
#include "server/rpc/error.h"
#include "server/rpc/flight_stream.h"
#include "server/rpc/pinned_budget.h"
#include "server/rpc/reflection.h"
#include "server/rpc/tls_check.h"
#include "server/rpc/upload_watch.h"

namespace infercache::rpc {
namespace {

// One response must fit: a small store still serves a 4 MiB chunk and a few blocks beside it.
constexpr uint64_t kMinDefaultPinnedBytes = uint64_t{16} << 20;
constexpr int kPinnedShareOfCapacity = 16;
constexpr uint64_t kMinMaxMessageBytes = uint64_t{1} << 20;
constexpr uint64_t kMaxMessageBytes = std::numeric_limits<int32_t>::max();
constexpr char kCacheService[] = "infercache.v1.Cache";
constexpr char kAdminService[] = "infercache.v1.Admin";
// What a client may send as pings without calls before it is told to go away.
constexpr absl::Duration kMinClientPingInterval = absl::Seconds(5);
// For TLS and HTTP/2 to come up.
constexpr absl::Duration kHandshakeTimeout = absl::Seconds(10);

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(duration), 1,
                                              std::numeric_limits<int>::max() - 1));
}

absl::StatusOr<std::vector<ListeningSocket>> ListenOnAll(const RpcOptions& options) {
  std::vector<SocketAddress> addresses;
  for (const std::string& text : options.listen) {
    ASSIGN_OR_RETURN(addresses.emplace_back(), ParseAddress(text));
    if (!addresses.back().is_loopback() && !options.tls && !options.insecure_listen) {
      return absl::InvalidArgumentError(absl::StrCat(
          "address \"", text,
          "\" is reachable from other hosts: configure TLS, or permit it with insecure_listen"));
    }
  }
  std::vector<ListeningSocket> sockets;
  for (const SocketAddress& address : addresses) {
    ASSIGN_OR_RETURN(sockets.emplace_back(), Listen(address));
  }
  return sockets;
}

PinnedBudget::Limits BudgetLimits(const RpcOptions& options, uint64_t capacity_bytes) {
  PinnedBudget::Limits limits;
  limits.total_bytes = options.max_pinned_bytes;
  if (limits.total_bytes == 0) {
    limits.total_bytes = std::max(kMinDefaultPinnedBytes, capacity_bytes / kPinnedShareOfCapacity);
  }
  limits.connection_bytes =
      options.max_pinned_bytes_per_connection == 0
          ? limits.total_bytes / 2
          : std::min(options.max_pinned_bytes_per_connection, limits.total_bytes);
  limits.timeout = std::chrono::milliseconds(Milliseconds(options.stall_timeout));
  limits.timeout_bytes = options.max_message_bytes;
  return limits;
}

// gRPC tears itself down with its last object, and waits up to 10 s then for a poller that a
// stalled write has started. A daemon that stops has no time for that: the library stays up until
// the end.
void KeepGrpcInitialized() { [[maybe_unused]] static const bool once = (grpc_init(), true); }

std::shared_ptr<grpc::ServerCredentials> MakeCredentials(const RpcOptions& options) {
  if (!options.tls) return grpc::InsecureServerCredentials();
  const TlsConfig& tls = *options.tls;
  std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider;
  if (tls.certificate_file.empty()) {
    provider = std::make_shared<grpc::experimental::StaticDataCertificateProvider>(
        tls.client_ca_pem, std::vector<grpc::experimental::IdentityKeyCertPair>{
                               {tls.private_key_pem, tls.certificate_pem}});
  } else {
    provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
        tls.private_key_file, tls.certificate_file, tls.client_ca_file,
        static_cast<unsigned>(std::max<int64_t>(absl::ToInt64Seconds(tls.reload_interval), 1)));
  }
  grpc::experimental::TlsServerCredentialsOptions settings(provider);
  settings.watch_identity_key_cert_pairs();
  if (tls.client_ca_pem.empty()) {
    settings.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  } else {
    settings.watch_root_certs();
    settings.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(settings);
}

void SetLimits(const RpcOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             static_cast<int>(options.max_concurrent_streams));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             Milliseconds(options.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A client that only waits sends no data; the server goes on asking all the same.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(kMinClientPingInterval));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             Milliseconds(options.max_connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             Milliseconds(options.max_connection_age_grace));
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(kHandshakeTimeout));
  grpc::ResourceQuota quota("infercache requests");
  quota.Resize(options.max_buffered_request_bytes);
  builder.SetResourceQuota(quota);
}

}  // namespace

std::vector<std::string_view> MethodNames() {
  const auto names = MethodNameTable();
  return {names.begin(), names.end()};
}

class RpcServer::Impl {
 public:
  Impl(const RpcOptions& options, store::Store& store, AdminHooks hooks, CallObserver* observer,
       std::vector<ListeningSocket> sockets)
      : authenticator_(options.credentials, options.loopback_admin),
        budget_(BudgetLimits(options, store.options().capacity_bytes)),
        uploads_(budget_.limits().timeout, budget_.limits().timeout_bytes),
        flights_(options.max_concurrent_calls),
        monitor_(observer, options.max_concurrent_calls),
        acceptor_(std::move(sockets), options.max_connections),
        environment_{store,    authenticator_, acceptor_,
                     budget_,  monitor_,       uploads_,
                     flights_, draining_,      options.max_message_bytes},
        cache_(environment_, lists_),
        admin_(environment_, std::move(hooks), acceptor_.addresses(), administration_),
        addresses_(acceptor_.addresses()) {}

  ~Impl() { Shutdown(absl::Now()); }

  absl::Status Start(const RpcOptions& options) {
    // Both act on the whole process. A peer's malformed message is its own error, with its own
    // status; Protobuf would log it besides.
    google::protobuf::SetLogHandler(nullptr);
    grpc::EnableDefaultHealthCheckService(true);

    grpc::ServerBuilder builder;
    SetLimits(options, builder);
    builder.RegisterService(&cache_);
    builder.RegisterService(&admin_);
    if (options.reflection) {
      builder.RegisterService(&reflection_);
      builder.RegisterService(&reflection_v1alpha_);
    }
    tcp_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        MakeCredentials(options));
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC refused to start a server");
    for (const char* service : {kCacheService, kAdminService}) {
      server_->GetHealthCheckService()->SetServingStatus(service, true);
    }
    acceptor_.Start([this](int fd, bool is_unix) { Serve(fd, is_unix); },
                    [this] {
                      const auto now = std::chrono::steady_clock::now();
                      budget_.DisconnectStalled(now);
                      uploads_.CancelStalled(now);
                    });
    return absl::OkStatus();
  }

  void Adopt(UniqueFd socket, AdminRight right) { acceptor_.Adopt(std::move(socket), right); }

  void SetCredentials(std::vector<Credential> credentials) {
    authenticator_.SetCredentials(std::move(credentials));
  }

  void BeginDrain() {
    if (draining_.exchange(true)) return;
    server_->GetHealthCheckService()->SetServingStatus(false);
    // What they compute could not be put any more. A stream that opens now sees the flag.
    flights_.EndAll(absl::UnavailableError("the daemon is draining"));
  }

  void Shutdown(absl::Time deadline) {
    if (server_ == nullptr) return;
    BeginDrain();
    acceptor_.StopListening();
    // Cancelling does not end a call whose client does not read. Ending its connection does.
    acceptor_.DisconnectAllAt(std::chrono::steady_clock::now() +
                              absl::ToChronoMilliseconds(deadline - absl::Now()));
    server_->Shutdown(absl::ToChronoTime(deadline));
    // However long: what is pinned must not go while a response points into it. The connections
    // are cut off by now, and should one be left all the same, the daemon ends without this.
    budget_.AwaitEmpty(absl::InfiniteDuration());
    acceptor_.Stop();
    server_.reset();
  }

  const std::vector<std::string>& addresses() const { return addresses_; }
  bool draining() const { return draining_; }
  RpcStats stats() const {
    return {.pinned_response_bytes = budget_.held_bytes(),
            .max_pinned_response_bytes = budget_.limits().total_bytes,
            .calls_in_flight = monitor_.in_flight(),
            .connections = acceptor_.connections(),
            .stalled_disconnects = budget_.stalled_disconnects()};
  }

 private:
  void Serve(int fd, bool is_unix) {
    if (is_unix) return grpc::AddInsecureChannelFromFd(server_.get(), fd);
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    tcp_->HandleNewConnection(&connection);
  }

  Authenticator authenticator_;
  std::atomic<bool> draining_{false};
  PinnedBudget budget_;
  UploadWatch uploads_;
  FlightStreams flights_;
  CallMonitor monitor_;
  Acceptor acceptor_;
  const Environment environment_;
  Background lists_{2};
  // A namespace that is being populated, which can take a minute, must not hold up a flush.
  Background administration_{4};
  CacheService cache_;
  AdminService admin_;
  ReflectionService reflection_{ReflectionService::kV1};
  ReflectionService reflection_v1alpha_{ReflectionService::kV1Alpha};
  const std::vector<std::string> addresses_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> tcp_;
  std::unique_ptr<grpc::Server> server_;
};

absl::Status RpcServer::CheckOptions(const RpcOptions& options) {
  const auto positive = [](absl::Duration value, std::string_view name) {
    if (value > absl::ZeroDuration()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(AbslView(name), ": must be positive"));
  };
  if (options.max_message_bytes < kMinMaxMessageBytes ||
      options.max_message_bytes > kMaxMessageBytes) {
    return absl::InvalidArgumentError(absl::StrCat("max_message_bytes: ", options.max_message_bytes,
                                                   "; it must lie between ", kMinMaxMessageBytes,
                                                   " and ", kMaxMessageBytes));
  }
  if (options.max_concurrent_calls == 0 || options.max_concurrent_streams == 0 ||
      options.max_connections == 0 || options.max_buffered_request_bytes == 0) {
    return absl::InvalidArgumentError(
        "max_concurrent_calls, max_concurrent_streams, max_connections and "
        "max_buffered_request_bytes must not be 0");
  }
  RETURN_IF_ERROR(positive(options.keepalive_time, "keepalive_time"));
  RETURN_IF_ERROR(positive(options.keepalive_timeout, "keepalive_timeout"));
  RETURN_IF_ERROR(positive(options.stall_timeout, "stall_timeout"));
  RETURN_IF_ERROR(positive(options.max_connection_age, "max_connection_age"));
  RETURN_IF_ERROR(positive(options.max_connection_age_grace, "max_connection_age_grace"));
  if (options.tls) RETURN_IF_ERROR(CheckTls(*options.tls));
  return Authenticator::Validate(options.credentials);
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcOptions& options,
                                                            store::Store& store, AdminHooks hooks,
                                                            CallObserver* observer) {
  RETURN_IF_ERROR(CheckOptions(options));
  KeepGrpcInitialized();
  ASSIGN_OR_RETURN(auto sockets, ListenOnAll(options));
  auto impl =
      std::make_unique<Impl>(options, store, std::move(hooks), observer, std::move(sockets));
  RETURN_IF_ERROR(impl->Start(options));
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() = default;

const std::vector<std::string>& RpcServer::addresses() const { return impl_->addresses(); }
void RpcServer::Adopt(UniqueFd socket, AdminRight right) { impl_->Adopt(std::move(socket), right); }
absl::Status RpcServer::SetCredentials(std::vector<Credential> credentials) {
  RETURN_IF_ERROR(Authenticator::Validate(credentials));
  impl_->SetCredentials(std::move(credentials));
  return absl::OkStatus();
}
void RpcServer::BeginDrain() { impl_->BeginDrain(); }
bool RpcServer::draining() const { return impl_->draining(); }
void RpcServer::Shutdown(absl::Time deadline) { impl_->Shutdown(deadline); }
RpcStats RpcServer::stats() const { return impl_->stats(); }

}  // namespace infercache::rpc
