// Accepts connections of one listening socket.

#pragma once

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/strand.hpp>
#include <functional>

#include "common/closer.h"
#include "common/unique_fd.h"

namespace infercache::local {

// Thread-safe: the methods post. Whoever owns it lets the context run out of work between Stop and
// destruction.
class Acceptor {
 public:
  // `on_connection` gets each new socket (non-blocking, close-on-exec), `on_trouble` what accept
  // failed with: EMFILE also if `closer`, which outlives it, has not closed too many. Both run on
  // the context's threads, one call at a time.
  Acceptor(asio::io_context& context, Closer& closer, UniqueFd listener,
           std::function<void(UniqueFd)> on_connection, std::function<void(int error)> on_trouble);
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  void Start();
  // Goes on after trouble: out of descriptors, say. To be called now and then.
  void Resume();
  // Closes the listener; `done` is called when no further connection can come.
  void Stop(std::function<void()> done);

 private:
  void Await();
  void AcceptAll();

  Closer& closer_;
  asio::strand<asio::io_context::executor_type> strand_;
  // On the strand.
  asio::posix::stream_descriptor listener_;
  bool waiting_ = false;
  const std::function<void(UniqueFd)> on_connection_;
  const std::function<void(int error)> on_trouble_;
};

}  // namespace infercache::local
