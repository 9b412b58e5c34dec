#include "server/rpc/flight_stream.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "infercache/v1/cache.pb.h"
#include "server/answers/claims.h"
#include "server/rpc/error.h"
#include "server/rpc/flight_waits.h"
#include "server/rpc/message_bytes.h"

namespace infercache::rpc {
namespace {

using State = store::Namespace::GetOrReserved::State;

// In one message, which so stays below what any client takes.
constexpr int kMaxEventsPerMessage = 4096;
// A client with more unread answers than this is not read from.
constexpr int kBackPressureEvents = 16'384;
static_assert(kBackPressureEvents + kMaxItemsPerFrame < 65'536);

constexpr char kInvalidFlight[] = "INVALID_FLIGHT";
constexpr char kFlightsLimit[] = "FLIGHTS_LIMIT";

absl::Status InvalidFlight(const std::string& message) {
  return WithReason(absl::InvalidArgumentError(message), kInvalidFlight);
}

}  // namespace

// Reads follow each other, and so do writes; events come on any thread. gRPC holds it until OnDone,
// the claims for as long as they have something to tell.
class FlightStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                           public store::ClaimParty,
                           public std::enable_shared_from_this<FlightStream> {
 public:
  FlightStream(const Environment& environment, grpc::CallbackServerContext* context)
      : environment_(environment),
        context_(context),
        scope_(std::in_place, environment.monitor, Method::kFlight) {}

  void Begin() {
    self_ = shared_from_this();
    if (const absl::Status status = Admit(); !status.ok()) return End(status);
    StartRead(&incoming_);
  }

  void End(const absl::Status& status) {
    std::shared_ptr<store::Namespace> ns;
    {
      absl::MutexLock lock(&mu_);
      if (ending_) return;
      ending_ = status;
      ns = ns_;
    }
    if (ns != nullptr) ns->claims().Leave(*this);
    Pump();
  }

  void OnReadDone(bool ok) override {
    // The client has said all it is going to, or is gone: nobody computes for it any more.
    if (!ok) {
      return End(context_->IsCancelled() ? absl::CancelledError("the client left")
                                         : absl::OkStatus());
    }
    scope_->AddRequestBytes(incoming_.Length());
    const absl::Status status = Accept();
    incoming_.Clear();
    if (!status.ok()) return End(status);
    {
      absl::MutexLock lock(&mu_);
      read_is_due_ = true;
    }
    Pump();
  }

  void OnWriteDone(bool ok) override {
    outgoing_.Clear();
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
    }
    if (!ok) End(absl::CancelledError("the client left"));
    // Also if it had ended before: the end has waited for this write.
    Pump();
  }

  void OnCancel() override { End(absl::CancelledError("the client left")); }

  void OnDone() override {
    environment_.flights.Remove(this);
    const std::shared_ptr<FlightStream> last = std::move(self_);
    scope_.reset();
  }

  void OnClaimEvents(std::span<const store::ClaimEvent> events) override {
    {
      absl::MutexLock lock(&mu_);
      if (ending_) return;
      for (const store::ClaimEvent& event : events) {
        if (const auto asked = waits_.OnEvent(event)) Tell(*asked, event);
      }
    }
    Pump();
  }
  void OnClaimsClosed(const absl::Status& why) override { End(why); }

 private:
  using Asked = FlightWaits::Asked;

  absl::Status Admit() {
    RETURN_IF_ERROR(scope_->admission());
    ASSIGN_OR_RETURN(peer_, Identify(environment_, *context_));
    // Before the flag is looked at: a drain sets it, and then ends all that are there.
    RETURN_IF_ERROR(environment_.flights.Add(self_, *peer_->connection));
    return CheckAcceptsPuts(environment_);
  }

  absl::Status Accept() {
    v1::FlightRequest request;
    RETURN_IF_ERROR(ParseRequest(incoming_, &request));
    switch (request.body_case()) {
      case v1::FlightRequest::kOpen:
        return Open(request.open());
      case v1::FlightRequest::kAsk:
        return Ask(request.ask());
      case v1::FlightRequest::kGiveUp:
        return GiveUp(request.give_up());
      case v1::FlightRequest::BODY_NOT_SET:
        break;
    }
    return InvalidFlight("a message that asks for nothing");
  }

  absl::Status Open(const v1::FlightOpen& open) {
    if (flight_scope_) return InvalidFlight("the stream is open already");
    ASSIGN_OR_RETURN(flight_scope_, OpenScope(environment_, *peer_, open.scope()));
    RETURN_IF_ERROR(flight_scope_->ns->claims().Enter(shared_from_this()));
    bool over = false;
    {
      absl::MutexLock lock(&mu_);
      ns_ = flight_scope_->ns;
      over = ending_.has_value();
    }
    if (over) flight_scope_->ns->claims().Leave(*this);
    return absl::OkStatus();
  }

  absl::Status Ask(const v1::FlightAsk& ask) {
    if (!flight_scope_) return InvalidFlight("the first message must open the stream");
    if (static_cast<size_t>(ask.keys_size()) > kMaxItemsPerFrame) {
      return InvalidFlight(
          absl::StrCat("ask.keys: ", ask.keys_size(), "; the limit is ", kMaxItemsPerFrame));
    }
    RETURN_IF_ERROR(AtField(CheckKeys(ask.keys()), "ask"));
    const auto what = ToClaimRequest(ask.wait_ms(), ask.claim_ms());
    if (!what.ok()) return AtField(WithReason(what.status(), kInvalidFlight), "ask");
    for (int i = 0; i < ask.keys_size(); ++i) {
      const auto result =
          flight_scope_->ns->GetOrReserve(flight_scope_->Id(ask.keys(i)), *this, *what);
      Answer({ask.id(), static_cast<uint32_t>(i)}, result, what->claim_ms);
    }
    return absl::OkStatus();
  }

  absl::Status GiveUp(const v1::FlightGiveUp& request) {
    if (!flight_scope_) return InvalidFlight("the first message must open the stream");
    for (const uint64_t claim : request.claims()) {
      flight_scope_->ns->claims().GiveUp(*this, claim);
    }
    absl::MutexLock lock(&mu_);
    for (const uint64_t claim : request.claims()) waits_.OnGiveUp(claim);
    return absl::OkStatus();
  }

  void Answer(const Asked& asked, const absl::StatusOr<store::Namespace::GetOrReserved>& result,
              uint64_t claim_ms) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    SetAnswer(result, claim_ms, AddEvent(asked));
    std::optional<uint64_t> wait;
    if (result.ok() && result->state == State::kWait) wait = result->ticket;
    if (const auto ended = waits_.OnAnswer(wait, asked)) Tell(asked, *ended);
  }

  v1::ClaimAnswer* AddEvent(const Asked& asked) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    v1::ClaimEvent& event = *unsent_.add_events();
    event.set_request(asked.id);
    event.set_index(asked.index);
    return event.mutable_answer();
  }

  void Tell(const Asked& asked, const store::ClaimEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    SetAnswer(event, AddEvent(asked));
  }

  // Starts what is due: a write; a read, unless too much is unread; the end, once no write is under
  // way and no thread is about to start something.
  void Pump() ABSL_LOCKS_EXCLUDED(mu_) {
    while (true) {
      bool write = false, read = false;
      {
        absl::MutexLock lock(&mu_);
        if (ending_) {
          if (writing_ || starting_ > 0 || std::exchange(finished_, true)) return;
          break;
        }
        write = !writing_ && unsent_.events_size() > 0;
        if (write) TakeMessage();
        read = read_is_due_ && unsent_.events_size() <= kBackPressureEvents;
        if (read) read_is_due_ = false;
        if (!write && !read) return;
        ++starting_;
      }
      if (write) StartWrite(&outgoing_);
      if (read) StartRead(&incoming_);
      absl::MutexLock lock(&mu_);
      --starting_;
    }
    Finish(scope_->End(*ending_));
  }

  void TakeMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    writing_ = true;
    v1::FlightResponse message;
    auto& events = *unsent_.mutable_events();
    if (events.size() <= kMaxEventsPerMessage) {
      message.Swap(&unsent_);
    } else {
      message.mutable_events()->Reserve(kMaxEventsPerMessage);
      for (int i = 0; i < kMaxEventsPerMessage; ++i) message.add_events()->Swap(&events[i]);
      events.DeleteSubrange(0, kMaxEventsPerMessage);
    }
    outgoing_ = ToBuffer(message);
    scope_->AddResponseBytes(outgoing_.Length());
  }

  const Environment& environment_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<FlightStream> self_;  // while gRPC refers to this

  // Of whoever reads.
  std::optional<Peer> peer_;
  std::optional<Scope> flight_scope_;
  grpc::ByteBuffer incoming_;

  // Of whoever writes.
  grpc::ByteBuffer outgoing_;

  absl::Mutex mu_;
  std::optional<CallScope> scope_;  // request bytes: of whoever reads; the rest under mu_
  std::shared_ptr<store::Namespace> ns_ ABSL_GUARDED_BY(mu_);  // once its claims were entered
  std::optional<absl::Status> ending_;                         // set once, under mu_
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  int starting_ ABSL_GUARDED_BY(mu_) = 0;  // threads that start a write or a read
  bool read_is_due_ ABSL_GUARDED_BY(mu_) = false;
  v1::FlightResponse unsent_ ABSL_GUARDED_BY(mu_);
  FlightWaits waits_ ABSL_GUARDED_BY(mu_);
};

absl::Status FlightStreams::Add(std::shared_ptr<FlightStream> stream,
                                const Connection& connection) {
  absl::MutexLock lock(&mu_);
  size_t& theirs = per_connection_[&connection];
  if (theirs >= kMaxPerConnection) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          "the connection has ", kMaxPerConnection, " Flight streams already")),
                      kFlightsLimit);
  }
  if (streams_.size() >= most_) {
    if (theirs == 0) per_connection_.erase(&connection);
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("there are ", most_, " Flight streams already")),
        kFlightsLimit);
  }
  ++theirs;
  FlightStream* const key = stream.get();
  streams_.emplace(key, Entry{std::move(stream), &connection});
  return absl::OkStatus();
}

void FlightStreams::Remove(FlightStream* stream) {
  absl::MutexLock lock(&mu_);
  const auto it = streams_.find(stream);
  if (it == streams_.end()) return;
  const auto theirs = per_connection_.find(it->second.connection);
  if (--theirs->second == 0) per_connection_.erase(theirs);
  streams_.erase(it);
}

void FlightStreams::EndAll(const absl::Status& why) {
  std::vector<std::shared_ptr<FlightStream>> all;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [stream, entry] : streams_) all.push_back(entry.stream);
  }
  for (const auto& stream : all) stream->End(why);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartFlightStream(
    const Environment& environment, grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<FlightStream>(environment, context);
  FlightStream* const reactor = stream.get();
  stream->Begin();
  return reactor;
}

}  // namespace infercache::rpc
