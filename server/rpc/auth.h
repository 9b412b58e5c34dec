// Who calls, and what that caller may do.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/connection.h"
#include "server/rpc/rpc_server.h"
#include "server/store/namespace.h"

namespace grpc {
class ServerContextBase;
}

namespace infercache::rpc {

// A cheap value.
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
  Caller(std::shared_ptr<const Credential> credential, bool loopback, AdminRight right)
      : credential_(std::move(credential)), loopback_(loopback), right_(right) {}

  std::shared_ptr<const Credential> credential_;  // null = none
  bool loopback_;
  AdminRight right_;  // without a credential
};

// Thread-safe.
class Authenticator {
 public:
  Authenticator(std::vector<Credential> credentials, AdminRight loopback_admin);

  // INVALID_ARGUMENT names the credential that cannot work: no name, a name twice, nothing to be
  // recognised by, a token or certificate name twice.
  static absl::Status Validate(const std::vector<Credential>& credentials);

  // REQUIRES: they are valid.
  void SetCredentials(std::vector<Credential> credentials) ABSL_LOCKS_EXCLUDED(mu_);

  // UNAUTHENTICATED: an unknown token or certificate, or none from beyond this host.
  absl::StatusOr<Caller> Authenticate(const grpc::ServerContextBase& context,
                                      const Connection& connection) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Credentials = std::vector<Credential>;

  mutable absl::Mutex mu_;
  std::shared_ptr<const Credentials> credentials_ ABSL_GUARDED_BY(mu_);
  const AdminRight loopback_admin_;
};

}  // namespace infercache::rpc
