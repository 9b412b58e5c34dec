// File: server/config.h
//
// What infercached can be told: one struct, checked once, passed on by value. The sentence, the
// bounds and the three names (flag, environment, YAML key) of every field are in options.cc.
// Plain values; copying is fine.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/limits.h"
#include "infercache/types.h"
#include "server/local_peers.h"

namespace infercache::server {

// One entry of `namespaces:`.
struct NamespaceConfig {
  std::string name;
  uint64_t quota_bytes = 0;  // REQUIRED in a file
  uint64_t max_objects = 0;  // 0 = derived from the quota
  std::string policy = "auto";
  std::string grpc = "credential";  // "open" | "credential"
  bool checksums = false;
  FingerprintEntries require;
  // "*", NAME, number, "@NAME" or "@number". The lists of numbers are made of them when the
  // configuration is loaded.
  std::vector<std::string> local_users = {"*"};
  std::vector<std::string> local_writers = {"*"};  // empty = no memory that clients may write
  LocalPeers local_user_ids, local_writer_ids;
  FingerprintEntries devices;  // a GPU's UUID or "auto", and the size of the tier in its memory
  std::string origin;          // "file:line", for messages
};

// One entry of `auth.credentials:`. Exactly one of token, token_file and certificate_name is given.
struct CredentialConfig {
  std::string name;
  std::string token;       // secret
  std::string token_file;  // its content becomes `token` when the configuration is loaded
  std::string certificate_name;
  std::vector<std::string> namespaces;  // "*" = every one
  bool admin = false;
  std::string origin;  // "file:line", for messages
};

struct Config {
  // Memory.
  uint64_t capacity_bytes = uint64_t{2} << 30;
  uint64_t default_quota_bytes = 0;  // 0 = half of the capacity
  std::string default_devices;       // of the built-in namespace: "DEVICE=SIZE,..."
  bool device_demote = false;
  uint64_t chunk_bytes = uint64_t{1} << 30;
  uint64_t shards = 64;
  std::string arena_pages = "auto";
  bool lock_memory = false;

  // Addresses.
  std::string grpc_listen = "127.0.0.1:7400";  // empty = none
  std::string http_listen = "127.0.0.1:7401";  // empty = none
  std::string socket = "auto";                 // a path; empty = none
  std::string socket_mode = "0660";            // octal
  bool insecure_listen = false;

  // Process.
  uint64_t drain_timeout_ms = 20'000;
  std::string pid_file;    // empty = none
  std::string ready_file;  // empty = none
  std::string log_level = "info";
  std::string log_format = "text";
  bool allow_virtual_clock = false;

  // Same-host lane.
  uint64_t local_threads = 2;
  uint64_t local_max_sessions = 4096;
  uint64_t local_reservation_timeout_ms = 60'000;
  uint64_t local_pin_slots = kDefaultPinSlots;
  uint64_t local_pin_budget_divisor = 4;

  // gRPC limits.
  uint64_t grpc_max_message_bytes = uint64_t{64} << 20;
  uint64_t grpc_max_pinned_bytes = 0;                 // 0 = 1/16 of the capacity, >= 16 MiB
  uint64_t grpc_max_pinned_bytes_per_connection = 0;  // 0 = half of the total
  uint64_t grpc_max_buffered_request_bytes = uint64_t{1} << 30;
  uint64_t grpc_max_concurrent_calls = 1024;
  uint64_t grpc_max_concurrent_streams = 128;  // of one connection
  uint64_t grpc_max_connections = 4096;
  uint64_t grpc_keepalive_time_ms = 10'000;
  uint64_t grpc_keepalive_timeout_ms = 5'000;
  uint64_t grpc_stall_timeout_ms = 10'000;
  uint64_t grpc_max_connection_age_ms = 30 * 60'000;
  uint64_t grpc_max_connection_age_grace_ms = 5 * 60'000;
  bool grpc_reflection = true;

  // Who may come in.
  std::string tls_cert_file;  // PEM; empty = no TLS
  std::string tls_key_file;
  std::string tls_client_ca_file;
  std::string auth_loopback_admin = "read";  // "none" | "read" | "all"
  std::string auth_socket_admins = "0";      // as local_users, with commas; the own user is one too
  LocalPeers auth_socket_admin_ids;          // made of it when the configuration is loaded
  std::vector<CredentialConfig> credentials;

  // Empty = one namespace "default", open to loopback, with default_quota_bytes.
  std::vector<NamespaceConfig> namespaces;
};

// The namespaces to create: those of the file, or the built-in one.
std::vector<NamespaceConfig> EffectiveNamespaces(const Config& config);

// A tier in the memory of a GPU.
struct DeviceConfig {
  std::string device;  // a UUID or "auto"
  uint64_t bytes = 0;
};
// What `devices` of a namespace say. INVALID_ARGUMENT: no device's name, a size that is none or
// less than a GPU allocates, or a device twice.
absl::StatusOr<std::vector<DeviceConfig>> ParseDevices(const FingerprintEntries& devices);

// Whether both list the same namespaces or credentials, wherever in their files.
bool SameNamespaces(const Config& a, const Config& b);
bool SameCredentials(const Config& a, const Config& b);

// How many descriptors a daemon may come to need under `config`.
uint64_t FilesNeeded(const Config& config);

// A rule that a configuration breaks: `text` is a sentence about `key`.
struct ConfigProblem {
  std::string key;
  std::string text;
};

// What makes sense and is likely not what was meant; sentences.
std::vector<std::string> ConfigWarnings(const Config& config);

// The rules that concern more than one field or that one text cannot show. Empty = it makes sense.
std::vector<ConfigProblem> CheckConfig(const Config& config);

}  // namespace infercache::server
