#include "client/src/channel.h"

#include <algorithm>
#include <climits>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "grpc/grpc.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace infercache {
namespace {

// Only what gRPC would answer with a connection that never comes about, and no word why.
absl::Status CheckPem(const char* name, const std::string& pem, const char* what) {
  if (pem.empty()) return absl::OkStatus();
  if (absl::StrContains(pem, "-----BEGIN ") &&
      absl::StrContains(pem, absl::StrCat(what, "-----"))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("tls.", name, " holds no PEM ", what));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const std::optional<TlsOptions>& tls) {
  if (!tls.has_value()) return grpc::InsecureChannelCredentials();
  RETURN_IF_ERROR(CheckPem("ca_pem", tls->ca_pem, "CERTIFICATE"));
  RETURN_IF_ERROR(CheckPem("certificate_pem", tls->certificate_pem, "CERTIFICATE"));
  RETURN_IF_ERROR(CheckPem("private_key_pem", tls->private_key_pem, "PRIVATE KEY"));
  if (tls->certificate_pem.empty() != tls->private_key_pem.empty()) {
    return absl::InvalidArgumentError(
        "tls.certificate_pem and tls.private_key_pem come together or not at all");
  }
  return grpc::SslCredentials({.pem_root_certs = tls->ca_pem,
                               .pem_private_key = tls->private_key_pem,
                               .pem_cert_chain = tls->certificate_pem});
}

// A byte that HTTP/2 headers cannot carry would abort inside gRPC.
bool IsHeaderText(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return absl::ascii_isgraph(c); });
}

// Whoever lets go of gRPC last in a process shuts its library down, and may wait ten seconds there
// for a poller that sleeps; whoever lets go of the last channel ends the threads that callbacks run
// on, which is fatal on one of these threads: gRPC 1.51 then frees the queue that the thread goes
// on to read. A call holds its channel until its callback has returned, so that thread can be the
// one. So both stay up, once used: by a channel that leads nowhere, and one call on it.
void KeepGrpcUp() {
  struct Pin {
    grpc::GenericStub stub;  // holds the channel
    grpc::ClientContext context;
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
  };
  // volatile: it stays in memory, where a leak checker finds what it points to.
  [[maybe_unused]] static const Pin* const volatile pin = [] {
    grpc_init();
    const grpc::Slice nothing;
    // gRPC answers a channel without credentials with one whose calls fail at once.
    auto* made = new Pin{
        .stub = grpc::GenericStub(grpc::CreateCustomChannel("", nullptr, grpc::ChannelArguments())),
        .context = {},
        .request = grpc::ByteBuffer(&nothing, 1),
        .response = {}};
    made->stub.UnaryCall(&made->context, "/", {}, &made->request, &made->response,
                         [](const grpc::Status&) {});
    return made;
  }();
}

grpc::ChannelArguments MakeArguments() {
  grpc::ChannelArguments args;
  // What a daemon sends is bounded by its own max_message_bytes, which this side does not know.
  args.SetMaxReceiveMessageSize(INT_MAX);
  args.SetMaxSendMessageSize(INT_MAX);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Also how long one attempt to connect may take: a busy machine needs its time.
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2'000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  // Each client has its own connection: no state is shared behind the user's back.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Only calls that never left this process are tried again (gRPC's transparent retry): no retry
  // policy can come from DNS, and no proxy from the environment.
  args.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return args;
}

}  // namespace

void RemoteChannel::Prepare(grpc::ClientContext& context, absl::Time deadline) const {
  context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + absl::Hours(24))));
  if (!bearer_token.empty()) context.AddMetadata("authorization", "Bearer " + bearer_token);
}

absl::StatusOr<RemoteChannel> MakeChannel(const ClientOptions& options) {
  KeepGrpcUp();
  RemoteChannel result;
  ASSIGN_OR_RETURN(result.endpoint, ResolveEndpoint(options.endpoint));
  if (!IsHeaderText(options.bearer_token)) {
    return absl::InvalidArgumentError("bearer_token has bytes that are no printable ASCII");
  }
  if (!options.bearer_token.empty() && !options.tls.has_value() && !result.endpoint.local) {
    return absl::InvalidArgumentError(
        absl::StrCat("bearer_token would travel in clear text to ", result.endpoint.text,
                     ": use TLS, a Unix socket or a loopback address"));
  }
  result.bearer_token = options.bearer_token;
  ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(options.tls));
  result.channel = grpc::CreateCustomChannel(result.endpoint.target, credentials, MakeArguments());
  // gRPC answers credentials that it cannot use with a channel that is shut down from the start.
  if (result.channel->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_SHUTDOWN) {
    return absl::InvalidArgumentError(
        absl::StrCat("TLS material or endpoint ", result.endpoint.text, " is not usable"));
  }
  return result;
}

}  // namespace infercache
