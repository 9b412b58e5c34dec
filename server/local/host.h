// What all connections of one server share. Thread-safe; outlives every connection.

#pragma once

#include <array>
#include <asio/io_context.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/closer.h"
#include "common/mutex.h"
#include "server/local/lending.h"
#include "server/local/lists.h"
#include "server/local/local_server.h"
#include "server/local/openings.h"
#include "server/local/peer.h"
#include "server/local/quarantine.h"
#include "server/local/throttle.h"
#include "server/local/users.h"
#include "server/store/store.h"

namespace infercache::local {

inline constexpr uint32_t kProtocolVersion = 1;

// A number of things that somebody may wait to be none; whoever has waited may destroy it.
class Outstanding {
 public:
  void Add(uint64_t n) ABSL_LOCKS_EXCLUDED(mu_);
  void Remove(uint64_t n) ABSL_LOCKS_EXCLUDED(mu_);
  // False if there are some when `deadline` comes.
  bool WaitUntilNone(std::chrono::steady_clock::time_point deadline) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Mutex mu_;
  CondVar none_;
  uint64_t count_ ABSL_GUARDED_BY(mu_) = 0;
};

struct Counters {
  std::atomic<uint64_t> sessions{0}, sessions_opened{0}, sessions_refused{0};
  std::array<std::atomic<uint64_t>, kEndReasons> sessions_ended{};
  std::atomic<uint64_t> sessions_without_pidfd{0};
  std::atomic<uint64_t> requests{0}, round_trips{0};
  std::atomic<uint64_t> reservations_expired{0}, touches_drained{0};
  std::array<std::atomic<uint64_t>, kLendingRefusals> lending_refused{};
};

struct Host {
  Host(const LocalOptions& o, store::Store& s, asio::io_context& context)
      : options(o), store(s), users(o.max_sessions), quarantine(context, closer) {}

  void Log(LocalOptions::Severity severity, const std::string& message) const;
  // At most once a second of each `throttle`.
  void LogSome(Throttle& throttle, LocalOptions::Severity severity,
               const std::string& message) const;
  // UNAVAILABLE once the daemon drains.
  absl::Status CheckTakesWork() const;

  // Constant after construction.
  const LocalOptions options;
  store::Store& store;
  const OverflowIds overflow_ids = ReadOverflowIds();
  // Drops the server's hold on a connection that is over. Set before the first one.
  std::function<void(uint64_t connection)> forget;

  // Synchronize themselves. `closer` outlives all that has descriptors of clients, `users`, `books`
  // and `lending` outlive `quarantine`.
  Closer closer;
  std::atomic<bool> draining{false};
  Counters counters;
  Throttle refusals, ends, accept_troubles;  // in the log
  Outstanding reservations;                  // of open sessions, quarantined ones apart
  Users users;
  Openings openings;
  QuarantineBooks books;
  Lending lending;
  Quarantine quarantine;
  Lists lists;
};

inline void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
  counter.fetch_add(n, std::memory_order_relaxed);
}

}  // namespace infercache::local
