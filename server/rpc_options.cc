#include "server/rpc_options.h"

#include "common/status_macros.h"
#include "server/config_file.h"
#include "server/text.h"

namespace infercache::server {
namespace {

absl::StatusOr<std::string> ReadPem(std::string_view option, const std::string& path) {
  auto content = ReadSmallFile(path);
  if (content.ok()) return content;
  return absl::Status(content.status().code(), Cat(option, ": ", content.status().message()));
}

absl::StatusOr<rpc::TlsConfig> ReadTls(const Config& config) {
  rpc::TlsConfig tls;
  ASSIGN_OR_RETURN(tls.certificate_pem, ReadPem("tls.cert_file", config.tls_cert_file));
  ASSIGN_OR_RETURN(tls.private_key_pem, ReadPem("tls.key_file", config.tls_key_file));
  if (!config.tls_client_ca_file.empty()) {
    ASSIGN_OR_RETURN(tls.client_ca_pem, ReadPem("tls.client_ca_file", config.tls_client_ca_file));
  }
  tls.certificate_file = config.tls_cert_file;
  tls.private_key_file = config.tls_key_file;
  tls.client_ca_file = config.tls_client_ca_file;
  return tls;
}

}  // namespace

absl::StatusOr<rpc::RpcOptions> MakeRpcOptions(const Config& config) {
  const auto ms = [](uint64_t value) { return absl::Milliseconds(static_cast<int64_t>(value)); };
  rpc::RpcOptions options;
  options.listen.clear();
  if (!config.grpc_listen.empty()) options.listen.push_back(config.grpc_listen);
  options.max_message_bytes = config.grpc_max_message_bytes;
  options.max_pinned_bytes = config.grpc_max_pinned_bytes;
  options.max_pinned_bytes_per_connection = config.grpc_max_pinned_bytes_per_connection;
  options.max_concurrent_calls = static_cast<uint32_t>(config.grpc_max_concurrent_calls);
  options.max_concurrent_streams = static_cast<uint32_t>(config.grpc_max_concurrent_streams);
  options.max_connections = static_cast<uint32_t>(config.grpc_max_connections);
  options.max_buffered_request_bytes = config.grpc_max_buffered_request_bytes;
  options.keepalive_time = ms(config.grpc_keepalive_time_ms);
  options.keepalive_timeout = ms(config.grpc_keepalive_timeout_ms);
  options.stall_timeout = ms(config.grpc_stall_timeout_ms);
  options.max_connection_age = ms(config.grpc_max_connection_age_ms);
  options.max_connection_age_grace = ms(config.grpc_max_connection_age_grace_ms);
  options.reflection = config.grpc_reflection;
  options.loopback_admin = config.auth_loopback_admin == "all"    ? rpc::AdminRight::kAll
                           : config.auth_loopback_admin == "read" ? rpc::AdminRight::kRead
                                                                  : rpc::AdminRight::kNone;
  options.insecure_listen = config.insecure_listen;
  if (!config.tls_cert_file.empty()) {
    ASSIGN_OR_RETURN(options.tls, ReadTls(config));
  }
  for (const CredentialConfig& c : config.credentials) {
    options.credentials.push_back({.name = c.name,
                                   .bearer_token = c.token,
                                   .certificate_name = c.certificate_name,
                                   .namespaces = c.namespaces,
                                   .admin = c.admin});
  }
  RETURN_IF_ERROR(rpc::RpcServer::CheckOptions(options));
  return options;
}

}  // namespace infercache::server
