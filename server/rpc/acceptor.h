// Accepts connections and keeps a hand on each: gRPC serves them, but only who owns the sockets can
// end a connection whose client stopped reading.

#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/unique_fd.h"
#include "server/rpc/address.h"
#include "server/rpc/connection.h"

namespace infercache::rpc {

// Thread-safe. Owns the listening sockets and one thread.
class Acceptor {
 public:
  // What gRPC will call the peer of a Unix socket `fd`: only the number tells such peers apart.
  static std::string UnixPeerName(int fd);

  Acceptor(std::vector<ListeningSocket> sockets, size_t max_connections);
  // Stops.
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // As bound, in the order of the sockets.
  std::vector<std::string> addresses() const;

  // Starts accepting. `serve` takes over each new socket; `tick` runs about twice a second. Both
  // run on the acceptor's thread. REQUIRES: called once.
  void Start(std::function<void(int fd, bool is_unix)> serve, std::function<void()> tick);
  // Treats a connected Unix socket as one that was accepted here: it counts, and is closed if there
  // are too many or if StopListening was called.
  void Adopt(UniqueFd socket, AdminRight right);
  // Closes the listening sockets, removes socket files and adopts nothing any more; connections
  // stay. Idempotent.
  void StopListening();
  // From `when` on every connection is shut down, those that exist then and any later.
  void DisconnectAllAt(std::chrono::steady_clock::time_point when);
  // Ends the thread. Idempotent.
  void Stop();

  // The connection that a call's peer() names; null if it is closed already.
  std::shared_ptr<Connection> Find(const std::string& peer) const;
  size_t connections() const;

 private:
  struct Adopted {
    UniqueFd socket;
    AdminRight right;
  };

  void Run();
  void Accept(const SocketAddress& peer, AdminRight right, UniqueFd socket);
  void AcceptAll(size_t listener);
  void Reap(uint64_t id);
  // How long the thread may sleep.
  std::chrono::milliseconds Patience() const;
  // True once the thread has nothing left to do.
  bool ObeyOrders();
  void Wake();

  const size_t max_connections_;
  const UniqueFd epoll_;
  const UniqueFd wake_;
  std::vector<std::string> addresses_;
  std::function<void(int fd, bool is_unix)> serve_;
  std::function<void()> tick_;

  // Only on the thread, while there is one.
  std::vector<ListeningSocket> listeners_;
  uint64_t next_id_;

  mutable absl::Mutex mu_;
  // Orders to the thread.
  bool stop_listening_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<std::chrono::steady_clock::time_point> disconnect_at_ ABSL_GUARDED_BY(mu_);
  std::vector<Adopted> handed_over_ ABSL_GUARDED_BY(mu_);
  // Its answer to stop_listening_.
  bool listening_ ABSL_GUARDED_BY(mu_) = true;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Connection>> by_id_ ABSL_GUARDED_BY(mu_);
  // The newest of each name: gRPC may have closed a descriptor, and the kernel reused its number,
  // before the old connection's end was seen here.
  absl::flat_hash_map<std::string, std::shared_ptr<Connection>> by_peer_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace infercache::rpc
