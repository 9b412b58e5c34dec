#include "server/options.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/config_values.h"
#include "server/text.h"

namespace infercache::server {
namespace {

using K = ValueKind;
using C = Config;

constexpr uint64_t kKiB = 1024, kMiB = kKiB * 1024, kGiB = kMiB * 1024, kTiB = kGiB * 1024;
constexpr uint64_t kSecond = 1000, kHour = 3600 * kSecond, kDay = 24 * kHour;
constexpr std::string_view kMemory = "Memory";
constexpr std::string_view kAddresses = "Addresses";
constexpr std::string_view kProcess = "Process";
constexpr std::string_view kLocal = "Same-host lane";
constexpr std::string_view kGrpc = "gRPC limits";
constexpr std::string_view kAccess = "Access";

constexpr std::array kConfigFields = {
    Field<C>{"capacity", K::kSize, &C::capacity_bytes,
             "Upper bound of the sum of all namespaces' quotas.", kMemory, kMiB, 64 * kTiB},
    Field<C>{"default_quota", K::kSize, &C::default_quota_bytes,
             "Quota of the built-in namespace \"default\", which exists if the file lists no "
             "namespaces; 0 is half of the capacity. The rest is for namespaces made at run time.",
             kMemory, 0, 64 * kTiB},
    Field<C>{"default_devices", K::kText, &C::default_devices,
             "Tiers of the built-in namespace in the memory of GPUs: DEVICE=SIZE, with a comma "
             "between two. DEVICE is a GPU's UUID, or auto for the only one there is. Empty: none.",
             kMemory},
    Field<C>{"device.demote", K::kBool, &C::device_demote,
             "Objects that are worth least move from a tier in a GPU down to the namespace's host "
             "memory, instead of being evicted. Costs a CUDA context for each GPU.",
             kMemory},
    Field<C>{"store.chunk_bytes", K::kSize, &C::chunk_bytes,
             "Largest arena chunk, and so the largest object; in a GPU's memory at most 1GiB.",
             kMemory, kMiB, kTiB},
    Field<C>{"store.shards", K::kCount, &C::shards,
             "Index shards of a namespace, each with its own lock; a power of two.", kMemory, 1,
             4096},
    Field<C>{"arena_pages", K::kChoice, &C::arena_pages,
             "What arenas are made of: hugetlb (pages of 2 MiB that the machine has reserved), thp "
             "(the kernel makes them where it can) or 4k. auto takes, for each namespace, hugetlb "
             "if enough are reserved and no client may write in place, else thp if the kernel "
             "permits it for shared memory, else 4k.",
             kMemory, 0, 0, "auto|4k|thp|hugetlb"},
    Field<C>{"lock_memory", K::kBool, &C::lock_memory,
             "Lock arenas in memory, so that they are never swapped out. Needs a limit on locked "
             "memory (RLIMIT_MEMLOCK) of at least the capacity.",
             kMemory},

    Field<C>{"grpc.listen", K::kAddress, &C::grpc_listen,
             "TCP address of gRPC; port 0 lets the kernel choose, empty turns it off.", kAddresses},
    Field<C>{"http.listen", K::kAddress, &C::http_listen,
             "TCP address of HTTP (metrics and health); port 0 lets the kernel choose, empty turns "
             "it off. It has no credentials: keep it where only monitoring reaches it.",
             kAddresses},
    Field<C>{"socket", K::kPath, &C::socket,
             "Unix socket; \"auto\" is /run/infercache/infercached.sock for root and "
             "$XDG_RUNTIME_DIR/infercache/infercached.sock for others, empty turns it off.",
             kAddresses},
    Field<C>{"socket_mode", K::kFileMode, &C::socket_mode,
             "File mode of the Unix socket: who may connect.", kAddresses},
    Field<C>{
        "insecure_listen", K::kBool, &C::insecure_listen,
        "Permit a gRPC address that is not loopback without TLS. Everyone who reaches it reads "
        "tokens and values on the wire.",
        kAddresses},

    Field<C>{"drain_timeout", K::kDuration, &C::drain_timeout_ms,
             "How long calls in flight may take to finish after SIGTERM.", kProcess, 0, kHour},
    Field<C>{"pid_file", K::kPath, &C::pid_file, "Write the process id here; empty writes none.",
             kProcess},
    Field<C>{
        "ready_file", K::kPath, &C::ready_file,
        "Write the bound addresses here as JSON once everything serves; removed at exit. Empty "
        "writes none.",
        kProcess},
    Field<C>{"log.level", K::kChoice, &C::log_level, "Least severe level that is logged.", kProcess,
             0, 0, "trace|debug|info|warn|error"},
    Field<C>{"log.format", K::kChoice, &C::log_format, "Form of the log lines on standard error.",
             kProcess, 0, 0, "text|json"},
    Field<C>{"allow_virtual_clock", K::kBool, &C::allow_virtual_clock,
             "Permit namespaces whose eviction policy is told what time it is: for infercachectl "
             "replay --virtual-clock.",
             kProcess},

    Field<C>{"local.threads", K::kCount, &C::local_threads,
             "Threads that serve sessions; hits need none.", kLocal, 1, kMaxLocalThreads},
    Field<C>{
        "local.max_sessions", K::kCount, &C::local_max_sessions,
        "Sessions at once; more are refused with RESOURCE_EXHAUSTED. One user has at most three "
        "quarters of them.",
        kLocal, 1, 1'000'000},
    Field<C>{"local.reservation_timeout", K::kDuration, &C::local_reservation_timeout_ms,
             "Abort a put that was begun and neither committed nor given up for this long. Its "
             "bytes stay out of use until its process is gone or says that it stopped.",
             kLocal, kSecond, kDay},
    Field<C>{"local.pin_slots", K::kCount, &C::local_pin_slots,
             "Objects that a new session can hold at once; grown on request up to 65536.", kLocal,
             1, kMaxPinSlots},
    Field<C>{
        "local.pin_budget_divisor", K::kCount, &C::local_pin_budget_divisor,
        "One session may hold 1/N of its namespace's quota; a session that holds twice that is "
        "ended.",
        kLocal, 1, 1'000'000},

    Field<C>{"grpc.max_message_bytes", K::kSize, &C::grpc_max_message_bytes,
             "Largest request or response; larger values go through the streaming calls.", kGrpc,
             kMiB, 2 * kGiB - 1},
    Field<C>{
        "grpc.max_pinned_bytes", K::kSize, &C::grpc_max_pinned_bytes,
        "Bytes that responses on their way may hold; more calls get RESOURCE_EXHAUSTED. 0 is 1/16 "
        "of the capacity, at least 16 MiB. A GetStream pins its whole object, but has one chunk on "
        "its way and counts as at most half of a connection's bound.",
        kGrpc},
    Field<C>{"grpc.max_pinned_bytes_per_connection", K::kSize,
             &C::grpc_max_pinned_bytes_per_connection,
             "The same for one connection; 0 is half of the total.", kGrpc},
    Field<C>{"grpc.max_buffered_request_bytes", K::kSize, &C::grpc_max_buffered_request_bytes,
             "What gRPC may buffer for requests, all connections together.", kGrpc, kMiB, kTiB},
    Field<C>{"grpc.max_concurrent_calls", K::kCount, &C::grpc_max_concurrent_calls,
             "Calls at once; more are refused with RESOURCE_EXHAUSTED.", kGrpc, 1, 1'000'000},
    Field<C>{"grpc.max_concurrent_streams", K::kCount, &C::grpc_max_concurrent_streams,
             "Calls at once on one connection; more wait in the client.", kGrpc, 1, 1'000'000},
    Field<C>{"grpc.max_connections", K::kCount, &C::grpc_max_connections,
             "Connections at once; more are closed.", kGrpc, 1, 1'000'000},
    Field<C>{"grpc.keepalive_time", K::kDuration, &C::grpc_keepalive_time_ms,
             "Ping a connection that was silent this long.", kGrpc, kSecond, kDay},
    Field<C>{"grpc.keepalive_timeout", K::kDuration, &C::grpc_keepalive_timeout_ms,
             "Close a connection that leaves a ping unanswered this long.", kGrpc, 100, kHour},
    Field<C>{
        "grpc.stall_timeout", K::kDuration, &C::grpc_stall_timeout_ms,
        "Disconnect a client that does not take a response with values, and cancel an upload "
        "that does not arrive, within this time for each started grpc.max_message_bytes. Within "
        "a stream, each message has this time.",
        kGrpc, 100, kHour},
    Field<C>{"grpc.max_connection_age", K::kDuration, &C::grpc_max_connection_age_ms,
             "Tell a connection to go away after this time.", kGrpc, kSecond, 365 * kDay},
    Field<C>{"grpc.max_connection_age_grace", K::kDuration, &C::grpc_max_connection_age_grace_ms,
             "Close it this long after that.", kGrpc, kSecond, 365 * kDay},
    Field<C>{"grpc.reflection", K::kBool, &C::grpc_reflection,
             "Serve grpc.reflection, which lets grpcurl list the calls.", kGrpc},

    Field<C>{"tls.cert_file", K::kPath, &C::tls_cert_file,
             "PEM chain, the server's certificate first; empty serves without TLS.", kAccess},
    Field<C>{"tls.key_file", K::kPath, &C::tls_key_file, "PEM private key of the certificate.",
             kAccess},
    Field<C>{
        "tls.client_ca_file", K::kPath, &C::tls_client_ca_file,
        "PEM certificates that clients' certificates are verified against; empty asks for none.",
        kAccess},
    Field<C>{"auth.loopback_admin", K::kChoice, &C::auth_loopback_admin,
             "What loopback and Unix-socket peers may call of infercache.v1.Admin without a "
             "credential: read is what changes nothing (GetInfo, GetStats, ListNamespaces).",
             kAccess, 0, 0, "none|read|all"},
    Field<C>{
        "auth.socket_admins", K::kText, &C::auth_socket_admins,
        "Who else may call all of it over the Unix socket without a credential, beside the "
        "daemon's own user: users (NAME or number) and groups (\"@NAME\" or \"@number\"), with "
        "a comma between two; 0 is root. Empty: nobody.",
        kAccess},
};

using N = NamespaceConfig;
constexpr std::array kNamespaceFields = {
    Field<N>{"name", K::kText, &N::name, "1 to 64 of [a-z0-9._-]. Required."},
    Field<N>{"quota", K::kSize, &N::quota_bytes,
             "Bytes of arena, populated when the daemon starts. Required.", "", 4 * kKiB,
             64 * kTiB},
    Field<N>{"max_objects", K::kCount, &N::max_objects,
             "Most objects; 0 is one for each 4 KiB of the quota, at least 1024.", "", 0,
             kMaxObjectsPerNamespace},
    Field<N>{"policy", K::kChoice, &N::policy, "Which objects go first.", "", 0, 0,
             "auto|lru|fifo|lfu|s3fifo|arc"},
    Field<N>{"grpc", K::kChoice, &N::grpc,
             "open lets loopback and Unix-socket peers in without a credential.", "", 0, 0,
             "open|credential"},
    Field<N>{
        "checksums", K::kBool, &N::checksums,
        "Stores a CRC32C with each object, which whoever takes a hit checks, daemon or client; a "
        "mismatch is a miss. Not of tiers in the memory of GPUs."},
    Field<N>{"require", K::kTextMap, &N::require,
             "Fingerprint entries that every client must state with the same value."},
    Field<N>{
        "local_users", K::kTextList, &N::local_users,
        "Who may use it over the same-host lane: \"*\" (whoever can open the socket), users "
        "(NAME or number) and groups (\"@NAME\" or \"@number\"). An empty list lets nobody in."},
    Field<N>{
        "local_writers", K::kTextList, &N::local_writers,
        "Who of them may store, written the same way; they have the arena's memory writable. "
        "With an empty list the kernel refuses that to every process but the daemon: all users "
        "may store, and the daemon copies what they send."},
    Field<N>{
        "devices", K::kTextMap, &N::devices,
        "Tiers in the memory of GPUs: a GPU's UUID, or auto for the only one there is, and the "
        "size. Only writers can use them: a GPU's memory is not shared for reading alone."},
};

using R = CredentialConfig;
constexpr std::array kCredentialFields = {
    Field<R>{"name", K::kText, &R::name, "What logs and errors call this client. Required."},
    Field<R>{.key = "token",
             .kind = K::kText,
             .member = &R::token,
             .help = "Bearer token, visible ASCII of at least 16 characters.",
             .secret = true},
    Field<R>{"token_file", K::kPath, &R::token_file, "File that holds the token instead."},
    Field<R>{"certificate_name", K::kText, &R::certificate_name,
             "Common or alternative name of a TLS client certificate instead of a token."},
    Field<R>{"namespaces", K::kTextList, &R::namespaces,
             "Namespaces that it may use; \"*\" is every one."},
    Field<R>{"admin", K::kBool, &R::admin, "May call infercache.v1.Admin."},
};

absl::Status OutOfBounds(ValueKind kind, uint64_t min, uint64_t max) {
  const auto text = [kind](uint64_t v) {
    return kind == K::kSize ? FormatSize(v) : kind == K::kDuration ? FormatDurationMs(v) : Cat(v);
  };
  return max == std::numeric_limits<int64_t>::max()
             ? absl::InvalidArgumentError(Cat("must be at least ", text(min)))
             : absl::InvalidArgumentError(Cat("must be between ", text(min), " and ", text(max)));
}

absl::StatusOr<uint64_t> ParseNumber(ValueKind kind, std::string_view text) {
  return kind == K::kSize       ? ParseSize(text)
         : kind == K::kDuration ? ParseDurationMs(text)
                                : ParseCount(text);
}

absl::Status CheckText(ValueKind kind, std::string_view choices, std::string_view text) {
  const auto is_control = [](unsigned char c) { return absl::ascii_iscntrl(c); };
  if (std::any_of(text.begin(), text.end(), is_control)) {
    return absl::InvalidArgumentError("must not hold control characters");
  }
  if (kind == K::kChoice) {
    bool found = false;
    ForEachPiece(choices, '|', [&found, text](std::string_view c) { found |= c == text; });
    if (!found) {
      return absl::InvalidArgumentError(
          Cat("expected ", ReplaceAll(choices, '|', ", "), "; got \"", text, "\""));
    }
  }
  if (kind == K::kAddress && !text.empty()) return ParseHostPort(text).status();
  if (kind == K::kFileMode) return ParseFileMode(text).status();
  return absl::OkStatus();
}

// A YAML scalar in double quotes.
std::string Quoted(std::string_view text) { return Cat("\"", Escaped(text), "\""); }

}  // namespace

std::span<const Field<Config>> ConfigFields() { return kConfigFields; }
std::span<const Field<NamespaceConfig>> NamespaceFields() { return kNamespaceFields; }
std::span<const Field<CredentialConfig>> CredentialFields() { return kCredentialFields; }

std::string FlagName(std::string_view key) {
  return Cat("--", ReplaceAll(ReplaceAll(key, '.', "-"), '_', "-"));
}

std::string EnvironmentName(std::string_view key) {
  return Cat("INFERCACHE_", Upper(ReplaceAll(key, '.', "_")));
}

std::string KindName(ValueKind kind, std::string_view choices) {
  switch (kind) {
    case K::kText:
      return "TEXT";
    case K::kPath:
      return "PATH";
    case K::kAddress:
      return "HOST:PORT";
    case K::kChoice:
      return std::string(choices);
    case K::kSize:
      return "SIZE";
    case K::kDuration:
      return "DURATION";
    case K::kCount:
      return "NUMBER";
    case K::kBool:
      return "true|false";
    case K::kFileMode:
      return "OCTAL";
    case K::kTextList:
      return "LIST";
    case K::kTextMap:
      return "MAP";
  }
  return "";
}

template <typename T>
absl::Status SetValue(const Field<T>& field, std::string_view text, T& target) {
  if (const auto* number = std::get_if<uint64_t T::*>(&field.member)) {
    ASSIGN_OR_RETURN(const uint64_t value, ParseNumber(field.kind, text));
    if (value < field.min || value > field.max) {
      return OutOfBounds(field.kind, field.min, field.max);
    }
    target.*(*number) = value;
  } else if (const auto* flag = std::get_if<bool T::*>(&field.member)) {
    ASSIGN_OR_RETURN(target.*(*flag), ParseBool(text));
  } else {
    RETURN_IF_ERROR(CheckText(field.kind, field.choices, text));
    target.*(std::get<std::string T::*>(field.member)) = std::string(text);
  }
  return absl::OkStatus();
}

template <typename T>
std::string ValueText(const Field<T>& field, const T& source) {
  if (const auto* number = std::get_if<uint64_t T::*>(&field.member)) {
    const uint64_t value = source.*(*number);
    return field.kind == K::kSize       ? FormatSize(value)
           : field.kind == K::kDuration ? FormatDurationMs(value)
                                        : Cat(value);
  }
  if (const auto* flag = std::get_if<bool T::*>(&field.member)) {
    return source.*(*flag) ? "true" : "false";
  }
  if (const auto* list = std::get_if<std::vector<std::string> T::*>(&field.member)) {
    std::vector<std::string> items;
    for (const std::string& item : source.*(*list)) items.push_back(Quoted(item));
    return Cat("[", Join(items, ", "), "]");
  }
  if (const auto* map = std::get_if<FingerprintEntries T::*>(&field.member)) {
    std::vector<std::string> items;
    for (const auto& [key, value] : source.*(*map)) {
      items.push_back(Cat(Quoted(key), ": ", Quoted(value)));
    }
    return Cat("{", Join(items, ", "), "}");
  }
  const std::string& text = source.*(std::get<std::string T::*>(field.member));
  return field.kind == K::kChoice ? text : Quoted(text);
}

template absl::Status SetValue(const Field<Config>&, std::string_view, Config&);
template absl::Status SetValue(const Field<NamespaceConfig>&, std::string_view, NamespaceConfig&);
template absl::Status SetValue(const Field<CredentialConfig>&, std::string_view, CredentialConfig&);
template std::string ValueText(const Field<Config>&, const Config&);
template std::string ValueText(const Field<NamespaceConfig>&, const NamespaceConfig&);
template std::string ValueText(const Field<CredentialConfig>&, const CredentialConfig&);

}  // namespace infercache::server
