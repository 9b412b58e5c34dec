// What comes in: frames, requests, and the answers to them.

#include <asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/answers/failure.h"
#include "server/local/connection.h"
#include "server/local/hello.h"
#include "server/local/item_counts.h"

namespace infercache::local {

using std::chrono::steady_clock;

absl::Status Connection::OnFrame(std::string_view body, std::vector<UniqueFd> descriptors) {
  Count(host_.counters.requests);
  if (state_ == State::kRefused) return absl::OkStatus();
  std::optional<UniqueFd> descriptor;
  if (!descriptors.empty()) {
    RETURN_IF_ERROR(CheckDescriptors(body, descriptors.size()));
    descriptor = std::move(descriptors.front());
  }
  if (backlog_.empty() && !Congested() && !TurnIsOver()) {
    return HandleFrame(body, std::move(descriptor));
  }
  if (descriptor) ++waiting_descriptors_;
  backlog_.push_back({std::string(body), std::move(descriptor)});
  return absl::OkStatus();
}

// Descriptors are dearer than bytes: what takes none keeps none waiting.
absl::Status Connection::CheckDescriptors(std::string_view body, size_t count) const {
  Request request;
  if (state_ != State::kOpen || count != 1 ||
      !request.ParseFromArray(body.data(), static_cast<int>(body.size())) || !request.has_lend()) {
    return absl::InvalidArgumentError("descriptors beside a request that takes none");
  }
  if (waiting_descriptors_ >= kMaxWaitingDescriptors) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxWaitingDescriptors,
                                                   " descriptors before they are answered"));
  }
  if (host_.closer.pending() >= kMaxUnclosedDescriptors) {
    return absl::ResourceExhaustedError("too many descriptors are still being closed");
  }
  return absl::OkStatus();
}

absl::Status Connection::HandleBacklog() {
  while (!backlog_.empty() && !Congested() && !TurnIsOver()) {
    Waiting next = std::move(backlog_.front());
    backlog_.pop_front();
    if (next.descriptor) --waiting_descriptors_;
    RETURN_IF_ERROR(HandleFrame(next.body, std::move(next.descriptor)));
  }
  return absl::OkStatus();
}

absl::Status Connection::HandleFrame(std::string_view body, std::optional<UniqueFd> descriptor) {
  if (state_ == State::kOpen && FindInlinePuts(body, &inline_puts_)) {
    return HandleInlinePuts();
  }
  Request request;
  if (!request.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return absl::InvalidArgumentError("a frame that is no request");
  }
  return state_ == State::kHello ? HandleHello(request)
                                 : HandleRequest(std::move(request), std::move(descriptor));
}

absl::Status Connection::HandleInlinePuts() {
  if (inline_puts_.id == 0) return absl::InvalidArgumentError("a request that needs an id");
  RETURN_IF_ERROR(CheckItemCount(inline_puts_.items.size()));
  Response response;
  const absl::Status status =
      session_->PutInline(inline_puts_.items, response.mutable_put_results());
  Answer(inline_puts_.id, status, &response);
  return absl::OkStatus();
}

absl::Status Connection::HandleRequest(Request request, std::optional<UniqueFd> descriptor) {
  switch (request.body_case()) {
    case Request::BODY_NOT_SET:
      return absl::InvalidArgumentError("a request of an unknown kind");
    case Request::kHello:
      return absl::InvalidArgumentError("a second Hello");
    case Request::kWrite:
    case Request::kRelease:
    case Request::kGiveUp:
    case Request::kReturnLent:
      break;
    case Request::kDrain:
      AskForDrain();
      break;
    default:
      if (request.id() == 0) return absl::InvalidArgumentError("a request that needs an id");
      break;
  }
  RETURN_IF_ERROR(CheckItemCounts(request));
  if (descriptor && !descriptor->valid()) {
    Response lost;
    Answer(request.id(), absl::ResourceExhaustedError("the daemon is out of file descriptors"),
           &lost);
    return absl::OkStatus();
  }
  if (request.has_list_keys()) {
    HandleListKeys(request);
    return absl::OkStatus();
  }
  Response response;
  std::vector<UniqueFd> descriptors;
  Batch batch{.turn_is_over = [this] { return TurnIsOver(); }};
  const absl::Status status = session_->Handle(
      request, descriptor ? *std::move(descriptor) : UniqueFd(), &response, &descriptors, &batch);
  if (batch.done) {
    Answer(request.id(), status, &response, std::move(descriptors));
  } else {
    running_ = std::make_unique<Running>(
        Running{std::move(request), std::move(response), std::move(batch)});
  }
  return absl::OkStatus();
}

// Its items may ask for seconds of work: each of 1 MiB, say, for room where tiny objects are.
void Connection::GoOn() {
  std::vector<UniqueFd> none;
  Running& running = *running_;
  const absl::Status status =
      session_->Handle(running.request, {}, &running.response, &none, &running.batch);
  if (!running.batch.done) return;
  const std::unique_ptr<Running> done = std::move(running_);
  Answer(done->request.id(), status, &done->response);
}

// Of millions of keys, for one that asks again and again: other sessions must not wait for that.
void Connection::HandleListKeys(const Request& request) {
  listing_ = true;
  host_.lists.Post(
      peer_.user, id_,
      [&context = context_, weak = weak_from_this(), id = request.id(),
       list = session_->Lister(request.list_keys())] {
        if (weak.expired()) return;
        // Moved, not shared: the thread of the session lets go of it alone.
        auto response = std::make_shared<Response>();
        absl::Status status = list(response->mutable_key_page());
        asio::post(context, [weak, id, status = std::move(status), response = std::move(response)] {
          const auto self = weak.lock();
          if (self == nullptr || self->state_ != State::kOpen) return;
          self->listing_ = false;
          self->Answer(id, status, response.get());
          self->Continue();
        });
      });
}

absl::Status Connection::HandleHello(const Request& request) {
  if (!request.has_hello() || request.id() == 0) {
    return absl::InvalidArgumentError("the first request is not a Hello with an id");
  }
  auto peer = IdentifyPeer(socket_.native_handle());
  Response response;
  std::vector<UniqueFd> descriptors;
  absl::Status status = peer.status();
  if (peer.ok()) {
    peer_ = *std::move(peer);
    status = OpenIfThereIsRoom(request.hello(), response.mutable_welcome(), &descriptors);
  }
  if (!status.ok()) {
    state_ = State::kRefused;
    Count(host_.counters.sessions_refused);
    host_.LogSome(host_.refusals, LocalOptions::Severity::kInfo,
                  absl::StrCat("session ", id_, " of uid ", peer_.user, ", pid ", peer_.pid,
                               " refused: ", status.message()));
    Answer(request.id(), status, &response);
    return absl::OkStatus();
  }
  state_ = State::kOpen;
  host_.openings.Remove(id_);
  reader_.set_max_body_bytes(kMaxFrameBytes);
  reader_.set_max_descriptors(kMaxRequestDescriptors);
  PermitDescriptors(socket_.native_handle(), true);
  client_ = request.hello().client();
  Count(host_.counters.sessions_opened);
  WatchProcess();
  Answer(request.id(), status, &response, std::move(descriptors));
  return absl::OkStatus();
}

absl::Status Connection::OpenIfThereIsRoom(const v1::Hello& hello, v1::Welcome* welcome,
                                           std::vector<UniqueFd>* descriptors) {
  absl::Status status;
  if (host_.counters.sessions.fetch_add(1, std::memory_order_relaxed) >=
      host_.options.max_sessions) {
    status = absl::ResourceExhaustedError(absl::StrCat("there are ", host_.options.max_sessions,
                                                       " sessions already, which is the limit"));
  } else if (status = host_.users.AddSession(peer_.user); status.ok()) {
    auto session = OpenSession(host_, hello, peer_, id_, welcome, descriptors);
    status = session.status();
    if (session.ok()) {
      session_ = *std::move(session);
      if (hello.single_flight()) welcome->set_single_flight(OpenFlights());
      OpenLoans();
    } else {
      host_.users.RemoveSession(peer_.user);
    }
  }
  if (!status.ok()) host_.counters.sessions.fetch_sub(1, std::memory_order_relaxed);
  return status;
}

void Connection::AskForDrain() {
  const auto now = steady_clock::now();
  if (now >= session_->next_drain()) return session_->DrainTouches(now);
  if (std::exchange(awaiting_drain_, true)) return;
  drain_timer_.expires_at(session_->next_drain());
  drain_timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    self->awaiting_drain_ = false;
    if (!error && self->session_ != nullptr) self->session_->DrainTouches(steady_clock::now());
  });
}

void Connection::Answer(uint64_t id, const absl::Status& status, Response* response,
                        std::vector<UniqueFd> descriptors) {
  if (id == 0) return;
  Count(host_.counters.round_trips);
  response->set_id(id);
  if (!status.ok()) {
    response->clear_body();
    descriptors.clear();
    SetFailure(status, response);
  }
  Send(*response, std::move(descriptors));
}

void Connection::Send(const Response& response, std::vector<UniqueFd> descriptors) {
  encoded_.clear();
  response.AppendToString(&encoded_);
  descriptors_unsent_ |= !descriptors.empty();
  writer_.Add(encoded_, std::move(descriptors));
}

}  // namespace infercache::local
