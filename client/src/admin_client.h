// What an operator's tool asks of a daemon: the Admin service, health, and what went wrong.
// Internal to this repository (infercachectl and tests); workers use infercache/client.h.
//
// Thread-safe. Every call blocks the caller until it is answered or its deadline is over. No
// circuit breaker: a tool wants the error of this very call.

#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/status_conversion.h"  // IsUnreachable
#include "infercache/client.h"
#include "infercache/v1/admin.pb.h"

namespace infercache {

class AdminClient {
 public:
  // Uses endpoint, bearer_token, tls and deadline of `options`. Does not wait for the daemon.
  // INVALID_ARGUMENT as Client::Connect.
  static absl::StatusOr<std::unique_ptr<AdminClient>> Connect(const ClientOptions& options);
  ~AdminClient();
  AdminClient(const AdminClient&) = delete;
  AdminClient& operator=(const AdminClient&) = delete;

  // The address that calls go to, defaults and environment applied.
  const std::string& endpoint() const;

  // --- Errors are the daemon's, code and message unchanged, or UNAVAILABLE / DEADLINE_EXCEEDED if
  // it could not be asked. ---
  absl::StatusOr<v1::GetInfoResponse> GetInfo(const CallOptions& call = {});
  // Empty name = all namespaces.
  absl::StatusOr<v1::GetStatsResponse> GetStats(std::string_view namespace_name,
                                                const CallOptions& call = {});
  // The spec as made.
  absl::StatusOr<v1::NamespaceSpec> CreateNamespace(const v1::NamespaceSpec& spec,
                                                    const CallOptions& call = {});
  absl::StatusOr<v1::ListNamespacesResponse> ListNamespaces(const CallOptions& call = {});
  absl::Status DeleteNamespace(std::string_view name, const CallOptions& call = {});
  // The policy before.
  absl::StatusOr<std::string> SetPolicy(std::string_view namespace_name, std::string_view policy,
                                        const CallOptions& call = {});
  absl::Status AdvanceClock(std::string_view namespace_name, uint64_t since_start_ms,
                            const CallOptions& call = {});
  // How many objects it erased.
  absl::StatusOr<uint64_t> Flush(std::string_view namespace_name, std::string_view key_prefix,
                                 const CallOptions& call = {});
  // The level before.
  absl::StatusOr<std::string> SetLogLevel(std::string_view level, const CallOptions& call = {});
  absl::Status Drain(const CallOptions& call = {});
  // grpc.health.v1 Check. OK if serving, UNAVAILABLE with "not serving" in the message if the
  // daemon answers that it is not. Empty service = the daemon as a whole.
  absl::Status CheckHealth(std::string_view service = {}, const CallOptions& call = {});

 private:
  class Impl;
  explicit AdminClient(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace infercache
