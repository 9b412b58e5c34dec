// Why a connection ends, and what is given back when.

#include <sys/socket.h>

#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/absl_view.h"
#include "common/limits.h"
#include "server/local/connection.h"

namespace infercache::local {

using std::chrono::steady_clock;

void Connection::WatchProcess() {
  asio::error_code error;
  if (peer_.process.valid()) process_.assign(peer_.process.get(), error);
  if (!peer_.process.valid() || error) {
    Count(host_.counters.sessions_without_pidfd);
    return;
  }
  (void)peer_.process.Release();
  process_.async_wait(asio::posix::stream_descriptor::wait_read,
                      [self = shared_from_this()](const asio::error_code& failure) {
                        if (!failure) self->End(EndReason::kProcessGone, "");
                      });
}

void Connection::OnTick() {
  const auto now = steady_clock::now();
  if (std::exchange(peek_at_tick_, false)) Peek();
  if (state_ == State::kPeeking || state_ == State::kHello || state_ == State::kRefused) {
    if (now - accepted_ > absl::ToChronoMilliseconds(host_.options.handshake_timeout)) {
      End(EndReason::kSlow, "it did not open a session in time");
    }
    return;
  }
  if (state_ != State::kOpen) return;
  session_->ExpireReservations(now);
  session_->DrainTouches(now);
  if (const std::string excess = session_->OverBudget(); !excess.empty()) {
    return End(EndReason::kRevoked, excess);
  }
  if (session_->ns().closed()) SendGoodbye("the namespace is deleted");
  if (!writer_.empty() || std::exchange(flush_at_tick_, false)) Continue();
}

// What a client gave back before it left counts, though its connection was found closed before that
// was read: it would be missing it until its process is gone.
void Connection::TakeLastReturns() {
  const auto take = [this](std::string_view body) {
    Request request;
    if (request.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
      session_->GiveBack(request);
    }
  };
  for (const Waiting& waiting : backlog_) take(waiting.body);
  constexpr size_t kBudget = size_t{1} << 20;
  (void)reader_.Read(socket_.native_handle(), kBudget,
                     [&take](std::string_view body, std::vector<UniqueFd>) {
                       take(body);
                       return absl::OkStatus();
                     });
}

void Connection::End(EndReason reason, std::string_view detail) {
  if (state_ == State::kEnded) return;
  if (state_ == State::kOpen && reason == EndReason::kClosed) TakeLastReturns();
  const bool was_open = std::exchange(state_, State::kEnded) == State::kOpen;
  backlog_.clear();
  running_ = nullptr;
  writer_ = FrameWriter();
  if (was_open) {
    if (listing_) host_.lists.Drop(peer_.user, id_);
    LogEnd(reason, detail);
    // The client's process may live on, whoever closed the connection, and hold pins that stop
    // counting now.
    if (reason != EndReason::kProcessGone) session_->Revoke();
    const bool had_witness = process_.is_open();
    GiveBack(reason);
    // Last: who sees a session ended sees everything given back.
    host_.users.RemoveSession(peer_.user);
    Counters& counters = host_.counters;
    if (!had_witness) counters.sessions_without_pidfd.fetch_sub(1, std::memory_order_relaxed);
    counters.sessions_ended[static_cast<size_t>(reason)].fetch_add(1, std::memory_order_release);
    counters.sessions.fetch_sub(1, std::memory_order_release);
  } else if (reason == EndReason::kSlow || reason == EndReason::kProtocol) {
    host_.Log(LocalOptions::Severity::kDebug,
              absl::StrCat("connection ", id_, " ended without a session: ",
                           AbslView(EndReasonName(reason)), ": ", AbslView(detail)));
    Count(host_.counters.sessions_ended[static_cast<size_t>(reason)]);
  }
  asio::error_code ignored;
  drain_timer_.cancel();
  CloseSocket();
  process_.close(ignored);
  host_.openings.Remove(id_);
  host_.forget(id_);
}

// The client sees it at once, however long closing takes.
void Connection::CloseSocket() {
  if (!socket_.is_open()) return;
  const int socket = socket_.release();
  shutdown(socket, SHUT_RDWR);
  host_.closer.CloseSocket(socket);
}

void Connection::GiveBack(EndReason reason) {
  Quarantine::Witnesses until;
  const bool has_witness = process_.is_open();
  if (has_witness) until.process = UniqueFd(process_.release());
  if (has_witness && (reason == EndReason::kProcessGone || IsGone(until.process))) {
    until.process.Reset();
  }
  const std::string gpu = session_->ns().spec().device;
  bool by_connection = false;
  if (!gpu.empty()) {
    // A GPU works until the last process that has it open is gone. A child that was forked has it
    // open too, and the connection.
    by_connection = !PeerHasClosed();
  } else if (!has_witness) {
    // The peer's end of the connection is all that can tell.
    by_connection = reason != EndReason::kClosed;
  }
  std::vector<Quarantined> still_written;
  std::unique_ptr<Lending::Member> still_mapped;
  // When the daemon ends nobody reuses the bytes any more.
  if (reason != EndReason::kShutdown && (until.process.valid() || by_connection)) {
    still_written = session_->TakeReservations();
    still_mapped = session_->loans().TakeBorrowed();
  }
  session_.reset();
  if (still_written.empty() && still_mapped == nullptr) return;
  if (by_connection) {
    // Ours is shut for sending, so that the client sees an end of it.
    until.connection = UniqueFd(socket_.release());
    shutdown(until.connection.get(), SHUT_WR);
    if (has_witness) until.outlived = SayOutlived(still_written, gpu);
  }
  host_.quarantine.Hold(std::move(until), std::move(still_written),
                        std::make_unique<QuarantinedSession>(host_.users, peer_.user),
                        std::move(still_mapped));
}

bool Connection::PeerHasClosed() {
  // As much as a socket holds, so that what a worker sent before it died is no child of its.
  constexpr size_t kBudget = size_t{1} << 20;
  return host_.closer.Drain(socket_.native_handle(), kBudget);
}

std::function<void()> Connection::SayOutlived(const std::vector<Quarantined>& still_written,
                                              std::string_view gpu) const {
  uint64_t bytes = 0;
  for (const Quarantined& one : still_written) bytes += one.bytes();
  return [&host = host_,
          message = absl::StrCat("pid ", peer_.pid, " (session ", id_, " of uid ", peer_.user,
                                 ") is gone, but another process has its connection, a child of "
                                 "it, say, and perhaps its GPU: ",
                                 bytes, " bytes reserved in the memory of ", AbslView(gpu),
                                 " stay taken until that one is gone too")] {
    host.Log(LocalOptions::Severity::kWarning, message);
  };
}

void Connection::LogEnd(EndReason reason, std::string_view detail) const {
  const bool ordinary = reason == EndReason::kClosed || reason == EndReason::kShutdown;
  const auto severity = reason == EndReason::kRevoked ? LocalOptions::Severity::kWarning
                        : ordinary                    ? LocalOptions::Severity::kDebug
                                                      : LocalOptions::Severity::kInfo;
  const std::string line = absl::StrCat(
      "session ", id_, " of uid ", peer_.user, ", pid ", peer_.pid, " (\"",
      absl::CHexEscape(client_), "\") in namespace ", session_->ns().spec().name,
      " ended: ", AbslView(EndReasonName(reason)), detail.empty() ? "" : ": ", AbslView(detail));
  // Who may open a session can end one as often as he likes.
  if (severity == LocalOptions::Severity::kInfo) {
    host_.LogSome(host_.ends, severity, line);
  } else {
    host_.Log(severity, line);
  }
}

}  // namespace infercache::local
