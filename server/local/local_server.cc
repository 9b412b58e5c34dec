#include "server/local/local_server.h"

#include <algorithm>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/unix_socket.h"
#include "server/local/accept.h"
#include "server/local/connection.h"
#include "server/local/host.h"
#include "server/local/peer.h"

namespace infercache::local {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTick{100};
constexpr int kBacklog = 1024;
constexpr std::chrono::seconds kAcceptsNoMore{5};

absl::Status OutOfRange(const char* option, const std::string& range) {
  return absl::InvalidArgumentError(absl::StrCat(option, " must be ", range));
}

absl::Status Check(const LocalOptions& options) {
  if (options.socket_mode > 0777) return OutOfRange("socket_mode", "at most 0777");
  if (options.threads < 1 || options.threads > kMaxLocalThreads) {
    return OutOfRange("threads", absl::StrCat("1 to ", kMaxLocalThreads));
  }
  if (options.max_sessions < 1) return OutOfRange("max_sessions", "at least 1");
  if (options.pin_slots < 1 || options.pin_slots > kMaxPinSlots) {
    return OutOfRange("pin_slots", absl::StrCat("1 to ", kMaxPinSlots));
  }
  if (options.pin_budget_divisor < 1) return OutOfRange("pin_budget_divisor", "at least 1");
  if (options.turn < absl::Nanoseconds(1) || options.turn > absl::Seconds(1)) {
    return OutOfRange("turn", "between 1 ns and 1 s");
  }
  constexpr absl::Duration kLongest = absl::Hours(24);
  for (const auto& [name, value] : {std::pair{"reservation_timeout", options.reservation_timeout},
                                    std::pair{"handshake_timeout", options.handshake_timeout}}) {
    if (value < absl::Milliseconds(1) || value > kLongest) {
      return OutOfRange(name, "between 1 ms and a day");
    }
  }
  return absl::OkStatus();
}

steady_clock::time_point ToSteady(absl::Time deadline) {
  // Far enough for anybody, and no overflow.
  const absl::Duration left =
      std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(24));
  return steady_clock::now() + absl::ToChronoMilliseconds(left);
}

}  // namespace

// One thread that runs one context. Several threads on one context would wake each other for every
// request: with two of them a round trip takes half as long again.
class Loop {
 public:
  explicit Loop(std::shared_ptr<Heartbeat> heartbeat)
      : work_(context_.get_executor()),
        heartbeat_(std::move(heartbeat)),
        beat_(context_),
        thread_([this] { context_.run(); }) {
    if (heartbeat_ != nullptr) asio::post(context_, [this] { AwaitBeat(); });
  }

  asio::io_context& context() { return context_; }
  // Waits until everything that was begun has come back.
  void Join() {
    asio::post(context_, [this] {
      work_.reset();
      stops_ = true;
      beat_.cancel();
    });
    thread_.join();
    heartbeat_ = nullptr;
  }

 private:
  void AwaitBeat() {
    heartbeat_->Beat();
    beat_.expires_after(kTick);
    beat_.async_wait([this](const asio::error_code&) {
      if (!stops_) AwaitBeat();
    });
  }

  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::shared_ptr<Heartbeat> heartbeat_;  // null: it is not watched
  // On the thread.
  asio::steady_timer beat_;
  bool stops_ = false;
  std::thread thread_;
};

namespace {

std::vector<std::unique_ptr<Loop>> MakeLoops(const LocalOptions& options) {
  std::vector<std::unique_ptr<Loop>> loops;
  for (uint32_t i = 0; i < options.threads; ++i) {
    loops.push_back(std::make_unique<Loop>(
        options.heartbeats == nullptr ? nullptr
                                      : options.heartbeats->Add(absl::StrCat("sessions ", i))));
  }
  return loops;
}

}  // namespace

class LocalServer::Impl {
 public:
  Impl(const LocalOptions& options, store::Store& store, UnixListener listener)
      : socket_file_(std::move(listener.file)),
        loops_(MakeLoops(options)),
        host_(options, store, loops_.front()->context()),
        acceptor_(
            loops_.front()->context(), host_.closer, std::move(listener.fd),
            [this](UniqueFd socket) { Adopt(std::move(socket)); },
            [this](int error) { OnAcceptTrouble(error); }),
        tick_(loops_.front()->context()) {
    host_.forget = [this](uint64_t connection) { Forget(connection); };
    acceptor_.Start();
    asio::post(tick_.get_executor(), [this] { AwaitTick(); });
  }

  ~Impl() { Shutdown(absl::InfinitePast()); }

  const LocalOptions& options() const { return host_.options; }

  void BeginDrain() ABSL_LOCKS_EXCLUDED(mu_) {
    host_.draining.store(true, std::memory_order_relaxed);
    // A session that opens at this moment either sees the flag or is told by this.
    for (const auto& connection : Connections()) connection->SayGoodbye("the daemon is draining");
  }

  void StopListening(absl::Time deadline) ABSL_LOCKS_EXCLUDED(shutdown_mu_) {
    MutexLock lock(&shutdown_mu_);
    if (!is_down_) StopListeningLocked(deadline);
  }

  void Shutdown(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mu_, shutdown_mu_) {
    MutexLock lock(&shutdown_mu_);
    if (std::exchange(is_down_, true)) return;
    BeginDrain();
    StopListeningLocked(deadline);
    host_.reservations.WaitUntilNone(ToSteady(deadline));

    for (const auto& connection : Connections()) connection->Close(EndReason::kShutdown);
    // However long: a thread that does not come round could not be joined either. Nothing that
    // clients do keeps one, and Lifecycle::EndBy bounds the rest.
    connections_open_.WaitUntilNone(steady_clock::time_point::max());
    host_.quarantine.Clear();
    stopping_.store(true, std::memory_order_release);
    // Every handler that is left comes back cancelled: nothing of a connection outlives this.
    asio::post(tick_.get_executor(), [this] { tick_.cancel(); });
    for (const auto& loop : loops_) loop->Join();
  }

  LocalStats stats() const {
    const Counters& counters = host_.counters;
    const auto get = [](const std::atomic<uint64_t>& counter) {
      return counter.load(std::memory_order_acquire);
    };
    LocalStats stats;
    stats.sessions = get(counters.sessions);
    stats.sessions_opened = get(counters.sessions_opened);
    for (size_t i = 0; i < kEndReasons; ++i) {
      stats.sessions_ended[i] = get(counters.sessions_ended[i]);
    }
    stats.sessions_refused = get(counters.sessions_refused);
    stats.sessions_without_pidfd = get(counters.sessions_without_pidfd);
    stats.requests = get(counters.requests);
    stats.round_trips = get(counters.round_trips);
    stats.reservations_expired = get(counters.reservations_expired);
    stats.quarantined_reservations = host_.books.count();
    stats.quarantined = host_.books.Aged();
    stats.touches_drained = get(counters.touches_drained);
    stats.lending = host_.lending.stats();
    for (size_t i = 0; i < kLendingRefusals; ++i) {
      stats.lending_refused[i] = get(counters.lending_refused[i]);
    }
    return stats;
  }

  store::AgedBytes QuarantinedIn(std::string_view namespace_name) const {
    return host_.books.AgedIn(namespace_name);
  }

 private:
  using Table = std::unordered_map<uint64_t, std::shared_ptr<Connection>>;

  void StopListeningLocked(absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shutdown_mu_) {
    const auto listening = std::make_shared<Outstanding>();
    listening->Add(1);
    acceptor_.Stop([listening] { listening->Remove(1); });
    // Only a thread that hangs takes a moment for it.
    listening->WaitUntilNone(std::max(ToSteady(deadline), steady_clock::now() + kAcceptsNoMore));
    socket_file_ = SocketFile();
  }

  std::vector<std::shared_ptr<Connection>> Connections() const ABSL_LOCKS_EXCLUDED(mu_) {
    std::vector<std::shared_ptr<Connection>> all;
    MutexLock lock(&mu_);
    all.reserve(connections_.size());
    for (const auto& [id, connection] : connections_) all.push_back(connection);
    return all;
  }

  void Adopt(UniqueFd socket) ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t most = uint64_t{host_.options.max_sessions} + kMaxConnectionsBeyondSessions;
    // From half of them on one that has no session yet goes for each that comes.
    DropIfMoreThan(most - kMaxConnectionsBeyondSessions / 2);
    const uint32_t user = PeerUser(socket.get());
    std::shared_ptr<Connection> connection;
    {
      MutexLock lock(&mu_);
      if (connections_.size() < most) {
        asio::io_context& context = loops_[++last_id_ % loops_.size()]->context();
        connection = std::make_shared<Connection>(host_, context, last_id_, std::move(socket));
        connections_.emplace(last_id_, connection);
        connections_open_.Add(1);
        host_.openings.Add(user, last_id_);
      }
    }
    if (connection != nullptr) return connection->Start();
    host_.closer.CloseSocket(socket.Release());
    Count(host_.counters.sessions_refused);
    host_.Log(LocalOptions::Severity::kDebug, absl::StrCat("a connection was closed: there are ",
                                                           most, " already, which is the limit"));
  }

  void DropIfMoreThan(uint64_t most) ABSL_LOCKS_EXCLUDED(mu_) {
    std::shared_ptr<Connection> dropped;
    {
      MutexLock lock(&mu_);
      if (connections_.size() < most) return;
      const std::optional<uint64_t> worst = host_.openings.TakeWorst();
      const auto it = worst ? connections_.find(*worst) : connections_.end();
      if (it == connections_.end()) return;
      dropped = it->second;
    }
    dropped->CloseUnlessOpen();
  }

  void Forget(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_) {
    Table::node_type forgotten;
    {
      MutexLock lock(&mu_);
      forgotten = connections_.extract(id);
    }
    if (!forgotten.empty()) connections_open_.Remove(1);
  }

  void OnAcceptTrouble(int error) {
    host_.LogSome(host_.accept_troubles, LocalOptions::Severity::kWarning,
                  absl::StrCat("cannot accept connections: ", strerror(error)));
  }

  void AwaitTick() {
    tick_.expires_after(kTick);
    tick_.async_wait([this](const asio::error_code&) {
      if (stopping_.load(std::memory_order_acquire)) return;
      acceptor_.Resume();
      for (const auto& connection : Connections()) connection->Tick();
      AwaitTick();
    });
  }

  SocketFile socket_file_;
  // Connections take turns; the first loop also accepts and ticks.
  const std::vector<std::unique_ptr<Loop>> loops_;
  Host host_;
  Acceptor acceptor_;
  asio::steady_timer tick_;
  std::atomic<bool> stopping_{false};
  Outstanding connections_open_;

  mutable Mutex mu_;
  Table connections_ ABSL_GUARDED_BY(mu_);
  uint64_t last_id_ ABSL_GUARDED_BY(mu_) = 0;

  Mutex shutdown_mu_;  // held for the whole of Shutdown
  bool is_down_ ABSL_GUARDED_BY(shutdown_mu_) = false;
};

absl::StatusOr<std::unique_ptr<LocalServer>> LocalServer::Start(const LocalOptions& options,
                                                                store::Store& store) {
  RETURN_IF_ERROR(Check(options));
  ASSIGN_OR_RETURN(UnixListener listener,
                   ListenOnUnixSocket(options.socket_path, options.socket_mode, kBacklog));
  PermitDescriptors(listener.fd.get(), false);
  return std::unique_ptr<LocalServer>(
      new LocalServer(std::make_unique<Impl>(options, store, std::move(listener))));
}

LocalServer::LocalServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalServer::~LocalServer() = default;

const std::string& LocalServer::socket_path() const { return impl_->options().socket_path; }
void LocalServer::BeginDrain() { impl_->BeginDrain(); }
void LocalServer::StopListening(absl::Time deadline) { impl_->StopListening(deadline); }
void LocalServer::Shutdown(absl::Time deadline) { impl_->Shutdown(deadline); }
LocalStats LocalServer::stats() const { return impl_->stats(); }
store::AgedBytes LocalServer::QuarantinedIn(std::string_view namespace_name) const {
  return impl_->QuarantinedIn(namespace_name);
}

}  // namespace infercache::local
