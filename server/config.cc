#include "server/config.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "absl/strings/ascii.h"
#include "common/cuda/driver.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/config_values.h"
#include "server/text.h"

namespace infercache::server {
namespace {

constexpr size_t kMinTokenBytes = 16;
constexpr uint64_t kMinTierBytes = uint64_t{2} << 20;  // what a GPU allocates at least

using Problems = std::vector<ConfigProblem>;

bool IsNamespaceName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNamespaceNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '_' ||
                  c == '-';
         });
}

// "DEVICE=SIZE,DEVICE=SIZE"; a piece without '=' gets an empty size, which is none.
FingerprintEntries SplitDevices(std::string_view text) {
  FingerprintEntries devices;
  if (text.empty()) return devices;
  ForEachPiece(text, ',', [&devices](std::string_view piece) {
    const size_t equals = std::min(piece.find('='), piece.size());
    devices.emplace_back(piece.substr(0, equals), piece.substr(std::min(equals + 1, piece.size())));
  });
  return devices;
}

void CheckDevices(const Config& config, Problems& problems) {
  if (!config.default_devices.empty() && !config.namespaces.empty()) {
    problems.push_back({"default_devices", "has no meaning beside a list of namespaces"});
  }
  for (const NamespaceConfig& ns : EffectiveNamespaces(config)) {
    const auto devices = ParseDevices(ns.devices);
    if (devices.ok()) continue;
    problems.push_back(
        {config.namespaces.empty() ? "default_devices" : Cat(ns.origin, ": namespaces"),
         config.namespaces.empty() ? Cat(devices.status().message())
                                   : Cat("\"", ns.name, "\": ", devices.status().message())});
  }
}

void CheckMemory(const Config& config, Problems& problems) {
  if ((config.shards & (config.shards - 1)) != 0) {
    problems.push_back({"store.shards", "must be a power of two"});
  }
  uint64_t quotas = 0;
  for (const NamespaceConfig& ns : EffectiveNamespaces(config)) quotas += ns.quota_bytes;
  if (quotas > config.capacity_bytes) {
    const std::string_view key = config.namespaces.empty() ? "default_quota" : "namespaces";
    problems.push_back(
        {std::string(key), Cat("the quotas add up to ", FormatSize(quotas),
                               ", more than the capacity of ", FormatSize(config.capacity_bytes))});
  }
  if (config.default_quota_bytes != 0 && !config.namespaces.empty()) {
    problems.push_back({"default_quota", "has no meaning beside a list of namespaces"});
  }
  if (config.grpc_max_pinned_bytes > config.capacity_bytes) {
    problems.push_back({"grpc.max_pinned_bytes", "is more than the capacity"});
  }
  if (config.grpc_max_pinned_bytes != 0 &&
      config.grpc_max_pinned_bytes_per_connection > config.grpc_max_pinned_bytes) {
    problems.push_back(
        {"grpc.max_pinned_bytes_per_connection", "is more than grpc.max_pinned_bytes"});
  }
}

void CheckAddresses(const Config& config, Problems& problems) {
  if (config.grpc_listen.empty() && config.socket.empty()) {
    problems.push_back({"grpc.listen", "is empty and so is socket: nobody could connect"});
  }
  const bool has_tls = !config.tls_cert_file.empty();
  if (has_tls != !config.tls_key_file.empty()) {
    problems.push_back({"tls.key_file", "and tls.cert_file come together"});
  }
  if (!config.tls_client_ca_file.empty() && !has_tls) {
    problems.push_back({"tls.client_ca_file", "has no meaning without tls.cert_file"});
  }
  if (config.grpc_listen.empty() || has_tls || config.insecure_listen) return;
  const auto address = ParseHostPort(config.grpc_listen);
  if (address.ok() && !address->IsLoopback()) {
    problems.push_back({"grpc.listen", Cat("\"", config.grpc_listen,
                                           "\" is not loopback and there is no TLS: set "
                                           "tls.cert_file and tls.key_file, or permit it "
                                           "with insecure_listen")});
  }
}

void CheckNamespaces(const Config& config, Problems& problems) {
  if (config.namespaces.size() > kMaxNamespaces) {
    problems.push_back({"namespaces", Cat("lists more than ", kMaxNamespaces, " namespaces")});
  }
  std::set<std::string_view> names;
  for (const NamespaceConfig& ns : config.namespaces) {
    const std::string key = Cat(ns.origin, ": namespaces");
    if (!IsNamespaceName(ns.name)) {
      problems.push_back({key, Cat("name \"", Escaped(ns.name), "\" must be 1 to ",
                                   kMaxNamespaceNameBytes, " of [a-z0-9._-]")});
    } else if (!names.insert(ns.name).second) {
      problems.push_back({key, Cat("\"", ns.name, "\" is listed twice")});
    }
    if (ns.quota_bytes == 0) {
      problems.push_back({key, Cat("\"", ns.name, "\" has no quota")});
    }
  }
}

void CheckCredentials(const Config& config, Problems& problems) {
  std::set<std::string_view> names, secrets, certificates;
  for (const CredentialConfig& c : config.credentials) {
    const auto problem = [&c, &problems](std::string_view text) {
      problems.push_back({Cat(c.origin, ": auth.credentials"), Cat("\"", c.name, "\" ", text)});
    };
    if (c.name.empty()) problem("has no name");
    if (!c.name.empty() && !names.insert(c.name).second) problem("is listed twice");
    if (c.token.empty() == c.certificate_name.empty()) {
      problem("needs either a token or a certificate_name");
    }
    if (!c.token.empty()) {
      const bool visible = std::all_of(c.token.begin(), c.token.end(),
                                       [](unsigned char ch) { return absl::ascii_isgraph(ch); });
      if (!visible || c.token.size() < kMinTokenBytes || c.token.starts_with("<")) {
        problem(Cat("has a token that is not ", kMinTokenBytes,
                    " or more characters of visible ASCII"));
      } else if (!secrets.insert(c.token).second) {
        problem("has the token of another credential");
      }
    }
    if (!c.certificate_name.empty() && !certificates.insert(c.certificate_name).second) {
      problem("has the certificate_name of another credential");
    }
    if (!c.certificate_name.empty() && config.tls_client_ca_file.empty()) {
      problem("has a certificate_name, but there is no tls.client_ca_file");
    }
    for (const std::string& ns : c.namespaces) {
      // It may be made at run time, so only its form is checked.
      if (ns != "*" && !IsNamespaceName(ns)) {
        problem(Cat("names a namespace \"", Escaped(ns), "\" that cannot exist"));
      }
    }
    if (c.namespaces.empty() && !c.admin) problem("may do nothing: no namespaces and not admin");
  }
}

}  // namespace

std::vector<NamespaceConfig> EffectiveNamespaces(const Config& config) {
  if (!config.namespaces.empty()) return config.namespaces;
  NamespaceConfig ns;
  ns.name = "default";
  ns.quota_bytes =
      config.default_quota_bytes != 0 ? config.default_quota_bytes : config.capacity_bytes / 2;
  ns.grpc = "open";
  ns.devices = SplitDevices(config.default_devices);
  ns.origin = "built-in";
  return {ns};
}

absl::StatusOr<std::vector<DeviceConfig>> ParseDevices(const FingerprintEntries& devices) {
  std::vector<DeviceConfig> parsed;
  std::set<std::string> seen;
  for (const auto& [device, size] : devices) {
    std::string name = device;
    if (device != "auto") {
      ASSIGN_OR_RETURN(const cuda::Uuid uuid, cuda::ParseUuid(device));
      name = cuda::FormatUuid(uuid);
    }
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(Cat("the device ", name, " is given twice"));
    }
    const auto bytes = ParseSize(size);
    if (!bytes.ok()) {
      return absl::InvalidArgumentError(Cat("the device ", name, ": ", bytes.status().message()));
    }
    if (*bytes < kMinTierBytes || *bytes > 64 * (uint64_t{1} << 40)) {
      return absl::InvalidArgumentError(Cat("the device ", name, ": a tier of ", FormatSize(*bytes),
                                            "; it must be between ", FormatSize(kMinTierBytes),
                                            " and 64TiB"));
    }
    parsed.push_back({name, *bytes});
  }
  return parsed;
}

namespace {

// Of every tier the index and its chunks, of which the last may not be full.
uint64_t TierFiles(const Config& config) {
  const uint64_t chunk_bytes = std::min(config.chunk_bytes, kMaxDeviceChunkBytes);
  uint64_t files = 0;
  for (const NamespaceConfig& ns : EffectiveNamespaces(config)) {
    const auto devices = ParseDevices(ns.devices);
    if (!devices.ok()) continue;  // which is told elsewhere
    for (const DeviceConfig& device : *devices) files += 2 + device.bytes / chunk_bytes;
  }
  return files;
}

}  // namespace

uint64_t FilesNeeded(const Config& config) {
  // gRPC's descriptor and ours.
  constexpr uint64_t kPerConnection = 2;
  // The socket, the process's pidfd, the session page, and one on its way to the client.
  constexpr uint64_t kPerSession = 4;
  constexpr uint64_t kPerQuarantinedSession = 2;
  // Every namespace's index, a last chunk that is not full, and what the process has beside them.
  constexpr uint64_t kOthers = 2 * kMaxNamespaces + kMaxUnclosedDescriptors + 64;
  return kPerConnection * config.grpc_max_connections +
         kPerSession * (config.local_max_sessions + kMaxConnectionsBeyondSessions) +
         kPerQuarantinedSession * kMaxQuarantinedSessions + kMaxLentAllocations +
         config.capacity_bytes / config.chunk_bytes + TierFiles(config) + kOthers;
}

bool SameNamespaces(const Config& a, const Config& b) {
  const auto fields = [](const NamespaceConfig& n) {
    return std::tie(n.name, n.quota_bytes, n.max_objects, n.policy, n.grpc, n.checksums, n.require,
                    n.local_users, n.local_writers, n.local_user_ids, n.local_writer_ids,
                    n.devices);
  };
  return std::equal(a.namespaces.begin(), a.namespaces.end(), b.namespaces.begin(),
                    b.namespaces.end(),
                    [&fields](const auto& x, const auto& y) { return fields(x) == fields(y); });
}

bool SameCredentials(const Config& a, const Config& b) {
  const auto fields = [](const CredentialConfig& c) {
    return std::tie(c.name, c.token, c.certificate_name, c.namespaces, c.admin);
  };
  return std::equal(a.credentials.begin(), a.credentials.end(), b.credentials.begin(),
                    b.credentials.end(),
                    [&fields](const auto& x, const auto& y) { return fields(x) == fields(y); });
}

std::vector<std::string> ConfigWarnings(const Config& config) {
  std::vector<std::string> warnings;
  if (config.socket.empty()) return warnings;
  for (const NamespaceConfig& ns : EffectiveNamespaces(config)) {
    if (ns.grpc == "open" || !ns.local_user_ids.everyone) continue;
    warnings.push_back(Cat(ns.origin, ": namespaces: \"", ns.name,
                           "\" takes a credential over gRPC, but over the same-host lane whoever "
                           "can open the socket may use it: name its local_users"));
  }
  return warnings;
}

std::vector<ConfigProblem> CheckConfig(const Config& config) {
  Problems problems;
  CheckMemory(config, problems);
  CheckAddresses(config, problems);
  CheckNamespaces(config, problems);
  CheckCredentials(config, problems);
  CheckDevices(config, problems);
  return problems;
}

}  // namespace infercache::server
