// Bytes that a client may still write although nobody waits for them any more: its reservation took
// too long, or its session is over while its process is not, or a GPU may go on for a child of the
// process. They are reused only once the process is gone or has said that it stopped. The same for
// what a session that is over had borrowed of other clients.

#pragma once

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/strand.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/closer.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "server/local/lending.h"
#include "server/local/users.h"
#include "server/store/aged_bytes.h"
#include "server/store/lease.h"

namespace infercache::local {

// Counts what is in quarantine, wherever it waits. Thread-safe; outlives all that is counted.
class QuarantineBooks {
 public:
  struct Entry {
    std::string namespace_name;
    uint64_t bytes = 0;
    std::chrono::steady_clock::time_point since;
  };
  using Entries = std::list<Entry>;

  Entries::iterator Add(std::string_view namespace_name, uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);
  void Remove(Entries::iterator entry) ABSL_LOCKS_EXCLUDED(mu_);

  uint64_t count() const ABSL_LOCKS_EXCLUDED(mu_);
  store::AgedBytes Aged() const ABSL_LOCKS_EXCLUDED(mu_);
  store::AgedBytes AgedIn(std::string_view namespace_name) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  template <class Predicate>
  store::AgedBytes Sum(Predicate counts) const ABSL_LOCKS_EXCLUDED(mu_);

  mutable Mutex mu_;
  Entries entries_ ABSL_GUARDED_BY(mu_);
};

// One reservation in quarantine; its destruction frees the bytes. Move-only, not thread-safe.
class Quarantined {
 public:
  Quarantined(QuarantineBooks& books, std::string_view namespace_name, store::WriteLease lease);
  Quarantined(Quarantined&& other) noexcept;
  Quarantined& operator=(Quarantined&& other) = delete;
  ~Quarantined();

  uint64_t bytes() const { return lease_.size_bytes(); }

 private:
  QuarantineBooks* books_;  // null = moved from
  QuarantineBooks::Entries::iterator entry_;
  store::WriteLease lease_;
};

// Holds reservations of sessions that are over until their processes are. Thread-safe; whoever owns
// it lets `context` run out of work between Clear and destruction.
class Quarantine {
 public:
  // `closer` outlives it.
  Quarantine(asio::io_context& context, Closer& closer);
  Quarantine(const Quarantine&) = delete;
  Quarantine& operator=(const Quarantine&) = delete;

  // What shows that nobody writes any more. Where there are both, both have to.
  struct Witnesses {
    UniqueFd process;     // a pidfd, which becomes readable
    UniqueFd connection;  // is read, and what comes thrown away, until all who have the peer's end
                          // have closed it
    // Told once, on the context, if the process is gone and others have its end of the connection.
    std::function<void()> outlived = nullptr;
  };
  // `session` is kept as long, and what it has borrowed, if there is any.
  void Hold(Witnesses witnesses, std::vector<Quarantined> held,
            std::unique_ptr<QuarantinedSession> session = nullptr,
            std::unique_ptr<Lending::Member> borrowed = nullptr);
  // Frees all. For the end of the daemon.
  void Clear();

 private:
  struct Watch {
    Watch(const asio::strand<asio::io_context::executor_type>& strand, Closer& c,
          std::function<void()> o, std::vector<Quarantined> h,
          std::unique_ptr<QuarantinedSession> s, std::unique_ptr<Lending::Member> b)
        : closer(c),
          process(strand),
          connection(strand),
          outlived(std::move(o)),
          session(std::move(s)),
          held(std::move(h)),
          borrowed(std::move(b)) {}
    ~Watch() { Close(); }
    // False: there is no way to wait.
    bool Assign(Witnesses witnesses);
    void Close();

    Closer& closer;
    asio::posix::stream_descriptor process, connection;  // open until they have told
    std::function<void()> outlived;                      // null once told
    const std::unique_ptr<QuarantinedSession> session;
    std::vector<Quarantined> held;
    std::unique_ptr<Lending::Member> borrowed;
  };

  // On the strand.
  void Await(const std::shared_ptr<Watch>& watch);
  void OnProcess(const std::shared_ptr<Watch>& watch);
  void OnConnection(const std::shared_ptr<Watch>& watch);

  Closer& closer_;
  asio::strand<asio::io_context::executor_type> strand_;
  std::set<std::shared_ptr<Watch>> watches_;  // on the strand
};

}  // namespace infercache::local
