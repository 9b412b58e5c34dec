// File: server/local/local_server.h
//
// The same-host lane: serves local.proto on a filesystem Unix socket. Each connection is a session
// that owns what its client holds: pins, reservations, leases. The session ends when the client's
// process is gone or its connection is closed, whichever the kernel reports first, and everything
// it owned is given back then; bytes that its process may still write wait in quarantine until that
// process is gone.
//
// The witness of a process's death is its pidfd: it works across PID namespaces and whoever else
// holds the socket. Where the kernel gives none (older than 6.5, and a peer whose pid has no number
// here), the end of the connection has to do. If the client closed it, its bytes are freed: it may
// live on and write, but a quarantine without a witness would never end, and every client that dies
// would take memory with it. If the daemon closed it, they wait until the client has closed its end
// too. LocalStats counts such sessions, so that operators can be told.
//
// Knows no gRPC. A connection that begins with HTTP/2's preface is handed on, so that one socket
// serves both.
//
// Thread-safety: every method may be called from any thread. Ownership: the server borrows the
// store, which outlives it.

#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/heartbeat.h"
#include "common/limits.h"
#include "common/unique_fd.h"
#include "server/local/lending_stats.h"
#include "server/store/store.h"

namespace infercache::local {

struct LocalOptions {
  std::string socket_path;  // not empty
  uint32_t socket_mode = 0660;
  uint32_t threads = 2;  // connections are dealt out to them
  // More are refused with RESOURCE_EXHAUSTED, and if it is 8 or more, so is what one user would
  // have beyond three quarters of it.
  uint32_t max_sessions = 4096;
  std::string daemon_version;  // told to clients

  // A reservation of a client that hangs is aborted after this time.
  absl::Duration reservation_timeout = absl::Seconds(60);
  uint32_t pin_slots = kDefaultPinSlots;  // of a new session; grown on request to kMaxPinSlots
  // What one session may hold pinned or leased, as 1/n of its namespace's quota. A page that holds
  // more than twice that is revoked.
  uint32_t pin_budget_divisor = 4;
  // A connection must have opened its session within this time, or is closed.
  absl::Duration handshake_timeout = absl::Seconds(10);

  // Others have their turn after so much work for one session, between two items of a request if
  // need be.
  absl::Duration turn = absl::Milliseconds(1);

  // Takes over a connection that speaks HTTP/2. Empty = such connections are closed. Called on one
  // of the server's threads, with the preface unread.
  std::function<void(UniqueFd)> adopt_http2;
  // Of the threads that run sessions, while there are any of them; null = they are not watched.
  // Outlives the server.
  Heartbeats* heartbeats = nullptr;
  // Called without locks, on any of the server's threads. Empty = silence.
  enum class Severity { kDebug, kInfo, kWarning };
  std::function<void(Severity, std::string_view message)> log;
};

// Why sessions ended. kSlow counts connections that never became one, and kProtocol has those too.
// Such ends are logged with kDebug, and of refusals and of failures to accept there is one line a
// second with the number of those that have none, so that a flood of connections does not flood the
// log: the counters tell of it.
enum class EndReason : uint8_t {
  kClosed,       // the client closed its connection
  kProcessGone,  // its process died
  kProtocol,     // it broke the protocol
  kRevoked,      // it held more than its budget
  kSlow,         // it did not open a session in time
  kShutdown,     // the daemon stops
};
inline constexpr size_t kEndReasons = 6;
std::string_view EndReasonName(EndReason reason);

// A snapshot; each exact, together only nearly.
struct LocalStats {
  uint64_t sessions = 0;  // open now
  uint64_t sessions_opened = 0;
  std::array<uint64_t, kEndReasons> sessions_ended = {};  // by EndReason
  uint64_t sessions_refused = 0;                          // no access, unknown namespace, too many
  uint64_t sessions_without_pidfd = 0;     // open now: only the end of the connection shows a death
  uint64_t requests = 0, round_trips = 0;  // frames read; frames answered
  uint64_t reservations_expired = 0;
  uint64_t quarantined_reservations = 0;
  store::AgedBytes quarantined;
  uint64_t touches_drained = 0;
  LendingStats lending;
  std::array<uint64_t, kLendingRefusals> lending_refused = {};  // by LendingRefusal
};

class LocalServer {
 public:
  // Listens before it returns. Errors name the path: ALREADY_EXISTS (another process listens
  // there), FAILED_PRECONDITION (it cannot be bound, or what lies there is no socket),
  // INVALID_ARGUMENT (an option out of range). A socket file that nobody listens on is replaced.
  static absl::StatusOr<std::unique_ptr<LocalServer>> Start(const LocalOptions& options,
                                                            store::Store& store);
  // Shutdown without patience, if it was not called.
  ~LocalServer();
  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;

  const std::string& socket_path() const;

  // New sessions, reservations and inline puts are refused with UNAVAILABLE, every session gets a
  // Goodbye; commits and reads go on until Shutdown.
  void BeginDrain();
  // Accepts no more connections, at the latest soon after `deadline`, and removes the socket file;
  // those that are there go on. Idempotent.
  void StopListening(absl::Time deadline);
  // Stops listening, waits until no session holds a reservation or `deadline` has come, then closes
  // all. Everything is given back before it returns.
  void Shutdown(absl::Time deadline);

  LocalStats stats() const;
  // Of one namespace.
  store::AgedBytes QuarantinedIn(std::string_view namespace_name) const;

 private:
  class Impl;
  explicit LocalServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace infercache::local
