// One connection of the same-host lane: its socket, its frames in and out, the process behind it,
// and, once its Hello is accepted, its session.
//
// Thread-safety: the public methods may be called from any thread and only post; everything else
// runs on the connection's Asio context, which has one thread. Ownership: shared by the server's
// table, until the connection is over, and by handlers in flight. The host outlives it.
//
//   kPeeking -> kHello -> kOpen ------> kEnded
//      |           '----> kRefused --------^
//      '--> handed over to whoever speaks HTTP/2

#pragma once

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/frame_channel.h"
#include "common/limits.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"
#include "server/local/batch.h"
#include "server/local/host.h"
#include "server/local/inline_put.h"
#include "server/local/peer.h"
#include "server/local/session.h"

namespace infercache::local {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `socket` is connected and non-blocking. One thread runs `context`. `id` names the connection,
  // and later its session.
  Connection(Host& host, asio::io_context& context, uint64_t id, UniqueFd socket);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void Start();
  // Ten times a second. A tick that comes before the last one ran is dropped.
  void Tick();
  // Tells the client, if it has a session, that it gets no more work done.
  void SayGoodbye(std::string reason);
  void Close(EndReason reason);
  // Because there are too many that have no session.
  void CloseUnlessOpen();

 private:
  enum class State : uint8_t { kPeeking, kHello, kOpen, kRefused, kEnded };
  using Request = v1::LocalRequest;
  using Response = v1::LocalResponse;

  // The socket.
  void AwaitReadable();
  void AwaitWritable();
  // Goes on with the backlog after whatever else waits for the thread.
  void AwaitTurn();
  // Whether requests have had this turn's time, which begins with the first question.
  bool TurnIsOver();
  void OnReadable();
  void OnWritable();
  void Peek();
  void HandOver();
  // Sends what can be sent, then waits for whatever is next.
  void Continue();
  bool Congested();

  // Frames. A failure means that the client breaks the protocol.
  absl::Status OnFrame(std::string_view body, std::vector<UniqueFd> descriptors);
  absl::Status CheckDescriptors(std::string_view body, size_t count) const;
  // `descriptor`: not valid if it was lost.
  absl::Status HandleFrame(std::string_view body, std::optional<UniqueFd> descriptor);
  absl::Status HandleBacklog();
  absl::Status HandleRequest(Request request, std::optional<UniqueFd> descriptor);
  // With the request that is not done.
  void GoOn();
  absl::Status HandleHello(const Request& request);
  absl::Status OpenIfThereIsRoom(const v1::Hello& hello, v1::Welcome* welcome,
                                 std::vector<UniqueFd>* descriptors);
  absl::Status HandleInlinePuts();
  void HandleListKeys(const Request& request);
  // False: it is too late for claims.
  bool OpenFlights();
  void SendClaimEvents();
  void OpenLoans();
  void SendLentEvents();
  void AskForDrain();
  void Answer(uint64_t id, const absl::Status& status, Response* response,
              std::vector<UniqueFd> descriptors = {});
  void Send(const Response& response, std::vector<UniqueFd> descriptors);
  void SendGoodbye(const std::string& reason);

  // Life.
  void WatchProcess();
  void OnTick();
  void End(EndReason reason, std::string_view detail);
  void CloseSocket();
  void TakeLastReturns();
  void GiveBack(EndReason reason);
  // And so have all who inherited its end. What it sent and nobody has read is thrown away.
  bool PeerHasClosed();
  std::function<void()> SayOutlived(const std::vector<Quarantined>& still_written,
                                    std::string_view gpu) const;
  void LogEnd(EndReason reason, std::string_view detail) const;

  // Constant after construction.
  Host& host_;
  const uint64_t id_;
  asio::io_context& context_;
  const std::chrono::steady_clock::time_point accepted_;
  // Small requests may ask for much work: one turn handles them for this long.
  const std::chrono::nanoseconds turn_;

  // Synchronizes itself.
  std::atomic<bool> tick_pending_{false};

  // On the context's thread.
  State state_ = State::kPeeking;
  asio::posix::stream_descriptor socket_;
  asio::posix::stream_descriptor process_;  // open if there is a pidfd
  asio::steady_timer drain_timer_;
  bool awaiting_readable_ = false, awaiting_writable_ = false, awaiting_drain_ = false;
  bool awaiting_turn_ = false;
  std::optional<std::chrono::steady_clock::time_point> turn_end_;  // empty: a turn begins
  bool peek_at_tick_ = false;                                      // the preface has come in part
  bool flush_at_tick_ = false;  // the socket has room, but descriptors cannot be sent now
  bool descriptors_unsent_ = false;
  bool listing_ = false;  // what has been asked after a ListKeys waits for its answer
  // A request that waits for the next turn, in the middle of its items; what has been asked after
  // it waits as well.
  struct Running {
    Request request;
    Response response;
    Batch batch;
  };
  std::unique_ptr<Running> running_;
  bool said_goodbye_ = false;
  FrameReader reader_{0, kMaxHelloBytes, &host_.closer};  // until there is a session
  FrameWriter writer_;
  // Requests that wait until answers have been read, or for the next turn.
  struct Waiting {
    std::string body;
    std::optional<UniqueFd> descriptor;
  };
  std::deque<Waiting> backlog_;
  size_t waiting_descriptors_ = 0;
  Peer peer_;
  std::string client_;  // what it calls itself, escaped
  std::unique_ptr<Session> session_;
  // Keep their memory from one request to the next.
  InlinePutsView inline_puts_;
  std::string encoded_;
};

}  // namespace infercache::local
