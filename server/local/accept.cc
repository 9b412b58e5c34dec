#include "server/local/accept.h"

#include <sys/socket.h>

#include <asio/post.hpp>
#include <cerrno>
#include <utility>

#include "common/limits.h"

namespace infercache::local {
namespace {

// Then those that are there have a turn.
constexpr int kAcceptsAtOnce = 64;

}  // namespace

Acceptor::Acceptor(asio::io_context& context, Closer& closer, UniqueFd listener,
                   std::function<void(UniqueFd)> on_connection,
                   std::function<void(int error)> on_trouble)
    : closer_(closer),
      strand_(asio::make_strand(context)),
      listener_(strand_),
      on_connection_(std::move(on_connection)),
      on_trouble_(std::move(on_trouble)) {
  asio::error_code error;
  listener_.assign(listener.get(), error);
  if (!error) (void)listener.Release();
}

void Acceptor::Start() {
  asio::post(strand_, [this] { Await(); });
}

void Acceptor::Resume() {
  asio::post(strand_, [this] { Await(); });
}

void Acceptor::Stop(std::function<void()> done) {
  asio::post(strand_, [this, done = std::move(done)] {
    // Connections that were not accepted are closed with it, and what is under way in them.
    if (listener_.is_open()) {
      const int listener = listener_.release();
      shutdown(listener, SHUT_RDWR);
      closer_.Close(listener);
    }
    done();
  });
}

void Acceptor::Await() {
  if (!listener_.is_open() || std::exchange(waiting_, true)) return;
  listener_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [this](const asio::error_code& error) {
                         waiting_ = false;
                         if (!error) AcceptAll();
                       });
}

void Acceptor::AcceptAll() {
  for (int i = 0; i < kAcceptsAtOnce && listener_.is_open(); ++i) {
    if (closer_.pending() >= kMaxUnclosedDescriptors) return on_trouble_(EMFILE);
    UniqueFd socket(
        accept4(listener_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.valid()) {
      on_connection_(std::move(socket));
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      // The listener stays readable: waiting for it would spin until Resume has a chance.
      return on_trouble_(errno);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      break;  // EAGAIN: that was all
    }
  }
  Await();
}

}  // namespace infercache::local
