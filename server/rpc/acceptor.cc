#include "server/rpc/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/duplicate_fd.h"

namespace infercache::rpc {
namespace {

constexpr std::chrono::milliseconds kTick{500};
constexpr std::chrono::milliseconds kShortestWait{10};
constexpr int kEventsAtOnce = 64;
// Then orders, ends of connections and the tick have a turn.
constexpr int kAcceptsAtOnce = 64;

void Watch(int epoll, int fd, uint32_t events, uint64_t id) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = id;
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

}  // namespace

std::string Acceptor::UnixPeerName(int fd) { return absl::StrCat("fd:", fd); }

Acceptor::Acceptor(std::vector<ListeningSocket> sockets, size_t max_connections)
    : max_connections_(max_connections),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      listeners_(std::move(sockets)) {
  // Ids: the listeners' indices, then the wake-up, then connections.
  for (size_t i = 0; i < listeners_.size(); ++i) {
    addresses_.push_back(listeners_[i].address.ToString());
    Watch(epoll_.get(), listeners_[i].fd.get(), EPOLLIN, i);
  }
  Watch(epoll_.get(), wake_.get(), EPOLLIN, listeners_.size());
  next_id_ = listeners_.size() + 1;
}

Acceptor::~Acceptor() { Stop(); }

std::vector<std::string> Acceptor::addresses() const { return addresses_; }

void Acceptor::Start(std::function<void(int fd, bool is_unix)> serve, std::function<void()> tick) {
  serve_ = std::move(serve);
  tick_ = std::move(tick);
  thread_ = std::thread([this] { Run(); });
}

void Acceptor::Adopt(UniqueFd socket, AdminRight right) {
  const int flags = fcntl(socket.get(), F_GETFL);
  if (flags < 0 || fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) return;
  absl::MutexLock lock(&mu_);
  if (stop_listening_ || stop_ || handed_over_.size() >= max_connections_) return;
  handed_over_.push_back({std::move(socket), right});
  Wake();
}

void Acceptor::StopListening() {
  if (!thread_.joinable()) return;
  absl::MutexLock lock(&mu_);
  stop_listening_ = true;
  Wake();
  mu_.Await(absl::Condition(
      +[](bool* listening) { return !*listening; }, &listening_));
}

void Acceptor::DisconnectAllAt(std::chrono::steady_clock::time_point when) {
  absl::MutexLock lock(&mu_);
  disconnect_at_ = when;
  Wake();
}

void Acceptor::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  Wake();
  thread_.join();
}

std::shared_ptr<Connection> Acceptor::Find(const std::string& peer) const {
  absl::MutexLock lock(&mu_);
  const auto it = by_peer_.find(peer);
  return it == by_peer_.end() ? nullptr : it->second;
}

size_t Acceptor::connections() const {
  absl::MutexLock lock(&mu_);
  return by_id_.size();
}

void Acceptor::Wake() { eventfd_write(wake_.get(), 1); }

void Acceptor::Run() {
  const uint64_t wake_id = addresses_.size();
  auto next_tick = std::chrono::steady_clock::now() + kTick;
  epoll_event events[kEventsAtOnce];
  while (!ObeyOrders()) {
    const int count = epoll_wait(epoll_.get(), events, kEventsAtOnce, Patience().count());
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[i].data.u64;
      if (id < wake_id) {
        AcceptAll(id);
      } else if (id == wake_id) {
        eventfd_t ignored;
        eventfd_read(wake_.get(), &ignored);
      } else {
        Reap(id);
      }
    }
    const auto now = std::chrono::steady_clock::now();
    if (now < next_tick) continue;
    next_tick = now + kTick;
    tick_();
  }
}

std::chrono::milliseconds Acceptor::Patience() const {
  absl::MutexLock lock(&mu_);
  if (!disconnect_at_) return kTick;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      *disconnect_at_ - std::chrono::steady_clock::now());
  return std::clamp(left, kShortestWait, kTick);
}

bool Acceptor::ObeyOrders() {
  std::vector<std::shared_ptr<Connection>> doomed;
  std::vector<Adopted> adopted;
  bool stop;
  {
    absl::MutexLock lock(&mu_);
    stop = stop_;
    adopted = std::exchange(handed_over_, {});
    if (stop_listening_ && listening_) {
      listeners_.clear();
      listening_ = false;
    }
    if (disconnect_at_ && std::chrono::steady_clock::now() >= *disconnect_at_) {
      for (const auto& [id, connection] : by_id_) doomed.push_back(connection);
    }
  }
  for (const auto& connection : doomed) connection->Disconnect();
  if (stop) return true;
  SocketAddress unix_peer;
  unix_peer.storage.ss_family = AF_UNIX;
  for (Adopted& a : adopted) Accept(unix_peer, a.right, std::move(a.socket));
  return false;
}

void Acceptor::AcceptAll(size_t listener) {
  // One round of events may bring an order to stop and a connection.
  if (listener >= listeners_.size()) return;
  // What is left is reported again.
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    SocketAddress peer;
    peer.size = sizeof(peer.storage);
    UniqueFd socket(accept4(listeners_[listener].fd.get(),
                            reinterpret_cast<sockaddr*>(&peer.storage), &peer.size,
                            SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors or memory: the event stays pending. Leave the core to those who may free
      // some.
      if (errno != EAGAIN) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return;
    }
    Accept(peer, AdminRight::kNone, std::move(socket));
  }
}

namespace {

bool IsOpen(const Connection& connection) {
  pollfd fd = {.fd = connection.socket(), .events = POLLRDHUP, .revents = 0};
  return poll(&fd, 1, 0) == 0;
}

}  // namespace

void Acceptor::Accept(const SocketAddress& peer, AdminRight right, UniqueFd socket) {
  const bool is_unix = peer.family() == AF_UNIX;
  if (!is_unix) {
    const int on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  auto witness = Duplicate(socket.get());
  if (!witness.ok()) return;
  const int witness_fd = witness->get();
  auto connection =
      std::make_shared<Connection>(is_unix ? UnixPeerName(socket.get()) : peer.ToGrpcUri(),
                                   peer.is_loopback(), right, *std::move(witness));
  const uint64_t id = next_id_++;
  {
    absl::MutexLock lock(&mu_);
    if (by_id_.size() >= max_connections_) return;
    // A host with several addresses can be reached twice from one port. gRPC calls both peers the
    // same, and what the one may do must not pass to the other.
    const auto named = by_peer_.find(connection->peer());
    if (!is_unix && named != by_peer_.end() && IsOpen(*named->second)) return;
    by_id_[id] = connection;
    by_peer_[connection->peer()] = connection;
  }
  // No event but the end of the connection, which is always reported.
  Watch(epoll_.get(), witness_fd, EPOLLET, id);
  serve_(socket.Release(), is_unix);
}

void Acceptor::Reap(uint64_t id) {
  std::shared_ptr<Connection> connection;
  absl::MutexLock lock(&mu_);
  const auto it = by_id_.find(id);
  if (it == by_id_.end()) return;
  connection = it->second;
  by_id_.erase(it);
  const auto named = by_peer_.find(connection->peer());
  if (named != by_peer_.end() && named->second == connection) by_peer_.erase(named);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection->socket(), nullptr);
}

}  // namespace infercache::rpc
