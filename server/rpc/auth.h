// Who calls, and what that caller may do.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/rpc/connection.h"
#include "server/rpc/rpc_server.h"
#include "server/store/namespace.h"

namespace grpc {
class ServerContextBase;
}

namespace infercache::rpc {

// A cheap value; must not outlive the Authenticator that made it.
class Caller {
 public:
  // PERMISSION_DENIED if the credential names other namespaces; OK without a credential.
  absl::Status CheckName(std::string_view namespace_name) const;
  // OK if this caller may use `ns`; UNAUTHENTICATED if it takes a credential, PERMISSION_DENIED if
  // it takes another one.
  absl::Status CheckNamespace(const store::Namespace& ns) const;
  // The same for calls of infercache.v1.Admin that take `needed`.
  absl::Status CheckAdmin(AdminRight needed) const;

 private:
  friend class Authenticator;
  Caller(const Credential* credential, bool loopback, AdminRight right)
      : credential_(credential), loopback_(loopback), right_(right) {}

  const Credential* credential_;  // null = none
  bool loopback_;
  AdminRight right_;  // without a credential
};

// Thread-safe: constant after construction.
class Authenticator {
 public:
  Authenticator(std::vector<Credential> credentials, AdminRight loopback_admin);

  // INVALID_ARGUMENT names the credential that cannot work: no name, a name twice, nothing to be
  // recognised by, a token or certificate name twice.
  static absl::Status Validate(const std::vector<Credential>& credentials);

  // UNAUTHENTICATED: an unknown token or certificate, or none from beyond this host.
  absl::StatusOr<Caller> Authenticate(const grpc::ServerContextBase& context,
                                      const Connection& connection) const;

 private:
  // `header` is the value of the metadata entry "authorization".
  absl::StatusOr<const Credential*> ByToken(std::string_view header) const;
  const Credential* ByCertificateName(std::string_view name) const;

  const std::vector<Credential> credentials_;
  const AdminRight loopback_admin_;
};

}  // namespace infercache::rpc
