// One accepted connection, as far as the cache cares: where it comes from, and the power to end it.

#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/unique_fd.h"
#include "server/rpc/admin_right.h"

namespace infercache::rpc {

// Thread-safe. Lives while the connection is open or a call refers to it.
class Connection {
 public:
  // `socket` is a duplicate of what gRPC owns: both name the same connection.
  Connection(std::string peer, bool loopback, AdminRight right, UniqueFd socket)
      : peer_(std::move(peer)), loopback_(loopback), right_(right), socket_(std::move(socket)) {}

  // As grpc::ServerContext::peer() says it.
  const std::string& peer() const { return peer_; }
  // 127/8, ::1 or a Unix socket.
  bool loopback() const { return loopback_; }
  // What the process at its other end may do without a credential, for who it is.
  AdminRight admin_right() const { return right_; }
  int socket() const { return socket_.get(); }

  // Shuts the socket down in both directions. gRPC then fails the connection's calls and lets go of
  // every byte it was going to send. Nothing gentler does: resetting the stream of a client that
  // does not read leaves its bytes where they are.
  void Disconnect() const;

 private:
  friend class PinnedBudget;

  const std::string peer_;
  const bool loopback_;
  const AdminRight right_;
  const UniqueFd socket_;
  // Guarded by the budget's mutex.
  uint64_t held_bytes_ = 0;
  bool stalled_ = false;
};

}  // namespace infercache::rpc
