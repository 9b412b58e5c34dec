#include "server/local/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache::local {
namespace {

using std::chrono::steady_clock;

constexpr std::string_view kHttp2Preface = "PRI ";
// Read in one turn; then other connections have theirs.
constexpr size_t kReadBudget = 256 * 1024;
// A client with more unread answers than this gets no further ones until it has read some.
constexpr size_t kBackPressureBytes = 256 * 1024;

bool HasRoom(int socket) {
  pollfd item = {.fd = socket, .events = POLLOUT, .revents = 0};
  return poll(&item, 1, 0) > 0 && (item.revents & (POLLERR | POLLHUP)) == 0;
}

}  // namespace

Connection::Connection(Host& host, asio::io_context& context, uint64_t id, UniqueFd socket)
    : host_(host),
      id_(id),
      context_(context),
      accepted_(steady_clock::now()),
      turn_(absl::ToChronoNanoseconds(host.options.turn)),
      socket_(context_),
      process_(context_),
      drain_timer_(context_) {
  asio::error_code error;
  socket_.assign(socket.get(), error);
  const int released = socket.Release();
  if (error) host_.closer.CloseSocket(released);
}

void Connection::Start() {
  asio::post(context_, [self = shared_from_this()] {
    if (!self->socket_.is_open()) return self->End(EndReason::kClosed, "out of resources");
    self->AwaitReadable();
  });
}

void Connection::Tick() {
  if (tick_pending_.exchange(true, std::memory_order_relaxed)) return;
  asio::post(context_, [self = shared_from_this()] {
    self->tick_pending_.store(false, std::memory_order_relaxed);
    self->OnTick();
  });
}

void Connection::Close(EndReason reason) {
  asio::post(context_, [self = shared_from_this(), reason] { self->End(reason, ""); });
}

void Connection::CloseUnlessOpen() {
  asio::post(context_, [self = shared_from_this()] {
    if (self->state_ == State::kOpen) return;
    self->End(EndReason::kSlow, "there are too many that have not opened a session");
  });
}

// --- The socket ---

void Connection::AwaitReadable() {
  if (std::exchange(awaiting_readable_, true)) return;
  socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->awaiting_readable_ = false;
                       if (!error) self->OnReadable();
                     });
}

void Connection::AwaitWritable() {
  if (std::exchange(awaiting_writable_, true)) return;
  socket_.async_wait(asio::posix::stream_descriptor::wait_write,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->awaiting_writable_ = false;
                       if (!error) self->OnWritable();
                     });
}

void Connection::AwaitTurn() {
  if (std::exchange(awaiting_turn_, true)) return;
  asio::post(context_, [self = shared_from_this()] {
    self->awaiting_turn_ = false;
    self->turn_end_.reset();
    self->Continue();
  });
}

bool Connection::TurnIsOver() {
  const auto now = steady_clock::now();
  if (!turn_end_) turn_end_ = now + turn_;
  return now >= *turn_end_;
}

void Connection::OnReadable() {
  if (state_ == State::kPeeking) return Peek();
  if (state_ != State::kHello && state_ != State::kOpen) return;
  turn_end_.reset();
  const auto read = reader_.Read(socket_.native_handle(), kReadBudget,
                                 [this](std::string_view body, std::vector<UniqueFd> descriptors) {
                                   return OnFrame(body, std::move(descriptors));
                                 });
  if (!read.ok()) {
    const absl::string_view message = read.status().message();
    return End(absl::IsUnavailable(read.status()) ? EndReason::kClosed : EndReason::kProtocol,
               {message.data(), message.size()});
  }
  Continue();
}

void Connection::OnWritable() {
  if (state_ == State::kEnded) return;
  Continue();
}

void Connection::Peek() {
  char first[kHttp2Preface.size()];
  const ssize_t received =
      recv(socket_.native_handle(), first, sizeof first, MSG_PEEK | MSG_DONTWAIT);
  if (received == 0) return End(EndReason::kClosed, "nothing was sent");
  if (received < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      return End(EndReason::kClosed, strerror(errno));
    }
    return AwaitReadable();
  }
  const auto seen = static_cast<size_t>(received);
  if (kHttp2Preface.substr(0, seen) != std::string_view(first, seen)) {
    state_ = State::kHello;
    return OnReadable();
  }
  if (seen == sizeof first) return HandOver();
  // The socket stays readable, so that waiting for it would spin.
  peek_at_tick_ = true;
}

void Connection::HandOver() {
  state_ = State::kEnded;
  if (host_.options.adopt_http2) {
    host_.options.adopt_http2(UniqueFd(socket_.release()));
  } else {
    CloseSocket();
    host_.Log(LocalOptions::Severity::kDebug,
              "a connection speaks HTTP/2, which is not served here");
  }
  host_.openings.Remove(id_);
  host_.forget(id_);
}

bool Connection::Congested() {
  if (listing_ || running_ != nullptr) return true;
  const auto full = [this] {
    return writer_.unsent_bytes() > kBackPressureBytes || descriptors_unsent_;
  };
  if (!full()) return false;
  // What goes wrong here goes wrong again in Continue().
  if (const auto flushed = writer_.Flush(socket_.native_handle()); flushed.ok() && *flushed) {
    descriptors_unsent_ = false;
  }
  return full();
}

void Connection::Continue() {
  for (int round = 0; state_ != State::kEnded; ++round) {
    const auto flushed = writer_.Flush(socket_.native_handle());
    if (!flushed.ok()) return End(EndReason::kClosed, "it reads no more");
    if (*flushed) descriptors_unsent_ = false;
    if (state_ == State::kRefused) {
      if (*flushed) return End(EndReason::kClosed, "");
      return AwaitWritable();
    }
    if (running_ != nullptr) {
      if (TurnIsOver()) return AwaitTurn();
      GoOn();
      continue;
    }
    if (!backlog_.empty() && !Congested()) {
      if (const absl::Status status = HandleBacklog(); !status.ok()) {
        return End(EndReason::kProtocol, std::string(status.message()));
      }
      if (!backlog_.empty() && !Congested()) return AwaitTurn();
      continue;
    }
    if (!*flushed && HasRoom(socket_.native_handle())) {
      // Either it was read just now, or too many descriptors of ours are under way.
      if (round == 0) continue;
      flush_at_tick_ = true;
    } else if (!*flushed) {
      AwaitWritable();
    }
    if (backlog_.empty() && !Congested()) AwaitReadable();
    return;
  }
}

}  // namespace infercache::local
