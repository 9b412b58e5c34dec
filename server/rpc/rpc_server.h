// File: server/rpc/rpc_server.h
//
// The gRPC lane: serves infercache.v1.Cache and infercache.v1.Admin from a store, with health,
// reflection, credentials and a bound on the arena memory that answers on their way may hold.
//
// Thread-safety: every method may be called from any thread. Ownership: the server borrows the
// store, the hooks' targets and the observer; all of them outlive it.

#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/unique_fd.h"
#include "server/rpc/admin_right.h"
#include "server/store/store.h"

namespace infercache::rpc {

// Who a client may be and what it may do. It is recognised by its bearer token or by the common
// name of its TLS certificate; at least one of the two is set.
struct Credential {
  std::string name;                     // in logs and errors; unique, not empty
  std::string bearer_token;             // empty = none
  std::string certificate_name;         // common name or subject alternative name; empty = none
  std::vector<std::string> namespaces;  // "*" = every one
  bool admin = false;                   // may call infercache.v1.Admin
};

struct TlsConfig {
  std::string certificate_pem;  // chain, the server's own first
  std::string private_key_pem;
  std::string client_ca_pem;  // not empty = clients may show a certificate, which must verify
  // The files that these are of, which are read again whenever this time has passed: new
  // connections use what is in them. Empty = what is above for good.
  std::string certificate_file = {}, private_key_file = {}, client_ca_file = {};
  absl::Duration reload_interval = absl::Seconds(10);
};

struct RpcOptions {
  // "127.0.0.1:7400", "[::1]:7400", "unix:/run/x.sock"; port 0 = the kernel chooses. Empty = only
  // connections that are handed over (Adopt).
  std::vector<std::string> listen = {"127.0.0.1:7400"};

  uint64_t max_message_bytes = uint64_t{64}
                               << 20;  // of one request or response; 1 MiB to 2 GiB - 1
  // Bytes that responses on their way may hold, which pins those of values in the arena. Beyond it
  // calls get RESOURCE_EXHAUSTED, and values that alone exceed it are omitted; GetStream serves
  // those: it counts as at most half of a connection's bound although it pins the whole object.
  // 0 = 1/16 of the store's capacity, but at least 16 MiB.
  uint64_t max_pinned_bytes = 0;
  // The same for one connection; 0 = half of the total.
  uint64_t max_pinned_bytes_per_connection = 0;
  uint32_t max_concurrent_calls = 1024;   // in all; more get RESOURCE_EXHAUSTED
  uint32_t max_concurrent_streams = 128;  // per connection; more wait in the client
  uint32_t max_connections = 4096;        // more are closed at once
  // Upper bound of what gRPC buffers for requests, all connections together.
  uint64_t max_buffered_request_bytes = uint64_t{1} << 30;

  // A connection that leaves a ping unanswered is closed after keepalive_time + keepalive_timeout.
  absl::Duration keepalive_time = absl::Seconds(10);
  absl::Duration keepalive_timeout = absl::Seconds(5);
  // The client must take a response that carries values within this time, for each
  // max_message_bytes it has; else its connection is closed, which is the one thing that gives the
  // bytes back. A PutStream must arrive in that time too, else it is cancelled. Of both streams
  // each message must go on within the time.
  absl::Duration stall_timeout = absl::Seconds(10);
  // A connection is told to go away after the first and is closed after both.
  absl::Duration max_connection_age = absl::Minutes(30);
  absl::Duration max_connection_age_grace = absl::Minutes(5);

  bool reflection = true;

  std::optional<TlsConfig> tls;  // for every TCP address; Unix sockets stay plain
  std::vector<Credential> credentials;
  // Of a loopback peer (127/8, ::1, Unix socket) without a credential.
  AdminRight loopback_admin = AdminRight::kRead;
  // Permits non-loopback addresses without TLS.
  bool insecure_listen = false;
};

// Tensors that clients lend each other in GPU memory of their own (server/local/lending_stats.h).
struct LendingStats {
  // Now.
  uint64_t loans = 0, bytes = 0, allocations = 0;
  uint64_t readers = 0, borrowed = 0, mapped = 0;
  uint64_t waiting = 0, longest_wait_ms = 0;
  // Since the start.
  uint64_t lent = 0, borrows_found = 0, borrows_not_found = 0, borrows_not_opened = 0;
  uint64_t taken_back_at_once = 0, taken_back_after_wait = 0, owner_gone = 0;
  std::vector<std::pair<std::string_view, uint64_t>> refused;  // by why. Names are valid for ever
};

// What is to be seen of the same-host lane. A snapshot; each exact, together only nearly.
struct LocalLaneStats {
  uint64_t sessions = 0;  // open now
  uint64_t sessions_opened = 0;
  uint64_t sessions_refused = 0;
  uint64_t sessions_without_pidfd = 0;  // open now
  // By why they ended. Names are valid for ever.
  std::vector<std::pair<std::string_view, uint64_t>> sessions_ended;
  uint64_t requests = 0, round_trips = 0;
  uint64_t reservations_expired = 0;
  uint64_t quarantined_reservations = 0;
  store::AgedBytes quarantined;
  uint64_t touches_drained = 0;
  LendingStats lending;
};

// The same-host lane, for those who only look at it. Both empty = there is none.
struct LocalLane {
  std::function<LocalLaneStats()> stats;
  std::function<store::AgedBytes(std::string_view namespace_name)> quarantined_in;
};

// What infercache.v1.Admin answers that only the daemon knows. Functions are called on gRPC
// threads, several at once; an empty one answers UNIMPLEMENTED.
struct AdminHooks {
  std::string version;
  std::string revision;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  std::string http_address;  // empty = none
  std::string socket_path;   // empty = none
  std::string arena_pages;   // as configured
  // Returns the level before. INVALID_ARGUMENT names the levels there are.
  std::function<absl::StatusOr<std::string>(std::string_view level)> set_log_level;
  // Asks the daemon to stop as SIGTERM does; returns at once.
  std::function<void()> request_drain;
  LocalLane local;
  bool allow_virtual_clock = false;  // namespaces whose time is told, for replaying traces
};

struct CallRecord {
  std::string_view method;  // "Cache/Get", "Admin/Drain", ...: a fixed set; valid for ever
  absl::StatusCode code = absl::StatusCode::kOk;
  absl::Duration latency;      // from the request's arrival to its answer's completion
  uint64_t request_bytes = 0;  // of messages, as they are on the wire
  uint64_t response_bytes = 0;
};

// Called once for each call that ended, on gRPC threads, several at once.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void OnCall(const CallRecord& call) = 0;
};

// A snapshot; each exact, together only nearly.
struct RpcStats {
  uint64_t pinned_response_bytes = 0;
  uint64_t max_pinned_response_bytes = 0;
  uint64_t calls_in_flight = 0;
  uint64_t connections = 0;
  uint64_t stalled_disconnects = 0;  // connections closed because their client did not read
};

// All methods that a CallRecord can name.
std::vector<std::string_view> MethodNames();

class RpcServer {
 public:
  // Listens before it returns. `observer` may be null. Errors name the address or the field:
  // INVALID_ARGUMENT (malformed address, non-loopback without TLS, bad PEM, bad credential, limit
  // out of range), ALREADY_EXISTS (address in use), FAILED_PRECONDITION (address cannot be bound).
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcOptions& options,
                                                          store::Store& store, AdminHooks hooks,
                                                          CallObserver* observer = nullptr);
  // What Start would say of `options` before it looks at the addresses: INVALID_ARGUMENT.
  static absl::Status CheckOptions(const RpcOptions& options);
  // Shutdown without patience, if it was not called.
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  // As listened on, in the order of RpcOptions::listen, with the ports that port 0 became.
  const std::vector<std::string>& addresses() const;

  // Serves a connected Unix socket of which nothing has been read, as one that it accepted itself:
  // it counts, its peer is loopback, and the server can end it. `right` is what its peer may call
  // of infercache.v1.Admin without a credential, if that is more than RpcOptions::loopback_admin.
  // Closed at once if there are too many connections, or after Shutdown began.
  void Adopt(UniqueFd socket, AdminRight right = AdminRight::kNone);

  // From now on each call needs one of these, on connections that are open too; calls under way go
  // on. INVALID_ARGUMENT as Start says, and nothing changes.
  absl::Status SetCredentials(std::vector<Credential> credentials);

  // Health becomes NOT_SERVING and new puts are refused with UNAVAILABLE; everything else goes on
  // until Shutdown.
  void BeginDrain();
  bool draining() const;
  // Stops listening, refuses new calls with UNAVAILABLE, waits for calls in flight until
  // `deadline`, then cancels them. All leases are given back before it returns.
  void Shutdown(absl::Time deadline);

  RpcStats stats() const;

 private:
  class Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace infercache::rpc
