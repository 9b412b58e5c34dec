#include "server/rpc/scope.h"

#include <grpcpp/server_context.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

constexpr char kDefaultNamespace[] = "default";

}  // namespace

absl::StatusOr<Peer> Identify(const Environment& environment,
                              const grpc::ServerContextBase& context) {
  auto connection = environment.acceptor.Find(context.peer());
  if (connection == nullptr) return absl::UnavailableError("the connection is closed");
  ASSIGN_OR_RETURN(const Caller caller,
                   environment.authenticator.Authenticate(context, *connection));
  return Peer{std::move(connection), caller};
}

absl::StatusOr<Scope> OpenScope(const Environment& environment, Peer peer, const v1::Scope& scope) {
  const std::string& name = scope.namespace_().empty() ? kDefaultNamespace : scope.namespace_();
  RETURN_IF_ERROR(peer.caller.CheckName(name));
  auto ns = environment.store.FindNamespace(name);
  if (!ns.ok()) return WithReason(ns.status(), "NAMESPACE_NOT_FOUND");
  RETURN_IF_ERROR(peer.caller.CheckNamespace(**ns));

  auto fingerprint = Fingerprint::Make(FromProto(scope.fingerprint()));
  if (!fingerprint.ok()) return WithReason(fingerprint.status(), "INVALID_FINGERPRINT");
  RETURN_IF_ERROR(WithReason(fingerprint->Satisfies((*ns)->spec().required_fingerprint),
                             "FINGERPRINT_MISMATCH"));
  return Scope{std::move(peer.connection), *std::move(ns), *std::move(fingerprint)};
}

absl::Status CheckAcceptsPuts(const Environment& environment) {
  if (!environment.draining.load(std::memory_order_relaxed)) return absl::OkStatus();
  return WithReason(absl::UnavailableError("the daemon is draining and takes no puts"), "DRAINING");
}

absl::Status CheckKey(std::string_view key) {
  if (!key.empty() && key.size() <= kMaxKeyBytes) return absl::OkStatus();
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat(key.size(), " bytes; a key has 1 to ", kMaxKeyBytes)),
      "INVALID_KEY");
}

absl::Status CheckKeys(const Keys& keys) {
  if (static_cast<size_t>(keys.size()) > kMaxKeysPerCall) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "keys: ", keys.size(), " of them; the limit is ", kMaxKeysPerCall)),
                      "TOO_MANY_KEYS");
  }
  for (int i = 0; i < keys.size(); ++i) {
    const absl::Status status = CheckKey(keys[i]);
    if (!status.ok()) return AtField(status, absl::StrCat("keys[", i, "]"));
  }
  return absl::OkStatus();
}

}  // namespace infercache::rpc
