#include "client/src/remote_flight.h"

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/src/fork_guard.h"
#include "client/src/remote_backend.h"
#include "client/src/status_conversion.h"
#include "common/limits.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

using State = ClaimWord::State;

constexpr char kMethod[] = "/infercache.v1.Cache/Flight";
constexpr size_t kMaxKeyBytesPerAsk = size_t{1} << 20;
// gRPC's own deadline of a stream; those of what is asked are kept here.
constexpr absl::Duration kMaxStreamTime = absl::Hours(24);

using Words = std::shared_ptr<Transport::OnWords>;

// Keys [first, first + count) of a batch. Kept until all words about them were handed on, and with
// it the operation.
struct Ask {
  Ask(RemoteCalls& calls, size_t f, std::vector<std::string> k, Words w)
      : operation(calls), first(f), keys(std::move(k)), words(std::move(w)), left(keys.size()) {
    heard.resize(keys.size(), false);
  }

  const RemoteCalls::Operation operation;
  const size_t first;
  const std::vector<std::string> keys;
  const Words words;
  grpc::Alarm deadline;

  // Guarded by the stream's mutex.
  std::vector<char> heard;
  size_t left;
};

}  // namespace

class FlightStreamCall final : public RemoteCall, public StreamReactor {
 public:
  explicit FlightStreamCall(RemoteBackend& backend)
      : RemoteCall(backend.calls, absl::Now() + kMaxStreamTime) {
    v1::FlightRequest open;
    *open.mutable_open()->mutable_scope() = backend.scope;
    outbox_.push_back(Serialize(open));
  }

  void Start() {
    if (!Begin()) return;
    self_ = Self();
    stub().PrepareBidiStreamingCall(&context(), kMethod, {}, this);
    // Held for what is written later than from a reaction.
    AddHold();
    StartRead(&incoming_);
    StartCall();
    {
      absl::MutexLock lock(&mu_);
      started_ = true;
    }
    Pump();
  }

  // False: the stream takes no more.
  bool Add(std::shared_ptr<Ask> ask, absl::Time deadline, absl::Duration claim_time)
      ABSL_LOCKS_EXCLUDED(mu_) {
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mu_);
      if (over_ || closing_) return false;
      id = next_ask_++;
      outbox_.push_back(MakeAsk(id, *ask, deadline, claim_time));
      asks_.emplace(id, ask);
    }
    // Without the lock: it may be over already.
    ask->deadline.Set(absl::ToChronoTime(std::min(deadline, absl::Now() + absl::Hours(1))),
                      [weak = std::weak_ptr<RemoteCall>(shared_from_this()), id](bool expired) {
                        if (!expired) return;
                        const auto call = std::static_pointer_cast<FlightStreamCall>(weak.lock());
                        if (call != nullptr) call->OnDeadline(id);
                      });
    Pump();
    return true;
  }

  // The end of a claim: fulfilled, or given up.
  void Release(uint64_t claim, bool give_up) ABSL_LOCKS_EXCLUDED(mu_) {
    {
      absl::MutexLock lock(&mu_);
      --claims_;
      if (give_up) GiveUpClaim(claim);
    }
    Pump();
  }

  bool inherited() const { return guard_.inherited(); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The end, or an error: OnDone tells which, once nothing is held.
      {
        absl::MutexLock lock(&mu_);
        closing_ = broken_ = true;
      }
      return Pump();
    }
    v1::FlightResponse response;
    if (absl::Status status = Parse(incoming_, &response); !status.ok()) {
      return GiveUp(status);
    }
    for (v1::ClaimEvent& event : *response.mutable_events()) OnEvent(event);
    incoming_.Clear();
    StartRead(&incoming_);
    Pump();
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (!ok) closing_ = broken_ = true;  // OnDone follows
    }
    Pump();
  }

  void OnDone(const grpc::Status& grpc_status) override {
    const std::shared_ptr<RemoteCall> self = std::move(self_);
    if (!End()) return;
    absl::Status status = FromGrpc(grpc_status);
    if (status.ok()) status = absl::UnavailableError("the daemon closed the stream");
    Deliver(status);
  }

 private:
  std::shared_ptr<FlightStreamCall> Self() {
    return std::static_pointer_cast<FlightStreamCall>(shared_from_this());
  }

  static grpc::ByteBuffer MakeAsk(uint64_t id, const Ask& ask, absl::Time deadline,
                                  absl::Duration claim_time) {
    v1::FlightRequest request;
    v1::FlightAsk& message = *request.mutable_ask();
    message.set_id(id);
    for (const std::string& key : ask.keys) message.add_keys(key);
    const auto ms = [](absl::Duration time, int64_t least, uint64_t most) {
      return std::clamp<int64_t>(absl::ToInt64Milliseconds(time), least,
                                 static_cast<int64_t>(most));
    };
    message.set_wait_ms(ms(deadline - absl::Now() + absl::Milliseconds(1), 0, kMaxWaitMs));
    message.set_claim_ms(ms(claim_time, 1, kMaxClaimMs));
    return Serialize(request);
  }

  void GiveUpClaim(uint64_t claim) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (over_ || closing_) return;
    v1::FlightRequest request;
    request.mutable_give_up()->add_claims(claim);
    outbox_.push_back(Serialize(request));
  }

  void OnEvent(v1::ClaimEvent& event) ABSL_LOCKS_EXCLUDED(mu_);
  ClaimWord MakeWord(const Ask& ask, size_t index, v1::ClaimAnswer& answer);

  void OnDeadline(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_) {
    std::shared_ptr<Ask> ask;
    {
      absl::MutexLock lock(&mu_);
      const auto it = asks_.find(id);
      if (it == asks_.end()) return;
      ask = std::move(it->second);
      asks_.erase(it);
    }
    // What is won later is given up when that is heard.
    Fail(*ask, absl::DeadlineExceededError("the key was not computed in time"));
    Pump();
  }

  // Of whatever was not heard. REQUIRES: nobody else has the ask.
  static void Fail(const Ask& ask, const absl::Status& status) {
    std::vector<ClaimWord> words;
    for (size_t i = 0; i < ask.keys.size(); ++i) {
      if (!ask.heard[i]) words.push_back({.index = ask.first + i, .status = status});
    }
    if (!words.empty()) (*ask.words)(std::move(words));
  }

  void Deliver(const absl::Status& status) override {
    std::map<uint64_t, std::shared_ptr<Ask>> asks;
    {
      absl::MutexLock lock(&mu_);
      asks.swap(asks_);
      closing_ = true;
    }
    for (const auto& [id, ask] : asks) {
      ask->deadline.Cancel();
      Fail(*ask, status);
    }
    Pump();
  }

  // Starts the write, or the end of writes, that is due.
  void Pump() ABSL_LOCKS_EXCLUDED(mu_) {
    bool write = false, close = false, unhold = false;
    {
      absl::MutexLock lock(&mu_);
      if (!started_ || writing_) return;
      const bool idle = asks_.empty() && claims_ == 0;
      if (!outbox_.empty() && !over_ && !broken_) {
        writing_ = write = true;
        outgoing_.Swap(&outbox_.front());
        outbox_.pop_front();
      } else if ((idle || over_ || broken_) && !unheld_) {
        // gRPC may end the call from here on: nothing is started any more.
        close = !over_ && !broken_;
        closing_ = unheld_ = unhold = true;
      }
    }
    if (write) StartWrite(&outgoing_);
    if (close) StartWritesDone();
    if (unhold) RemoveHold();
  }

  const ForkGuard guard_;
  std::shared_ptr<FlightStreamCall> self_;  // while gRPC refers to this
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  uint64_t next_ask_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, std::shared_ptr<Ask>> asks_ ABSL_GUARDED_BY(mu_);
  uint64_t claims_ ABSL_GUARDED_BY(mu_) = 0;  // that somebody holds
  std::deque<grpc::ByteBuffer> outbox_ ABSL_GUARDED_BY(mu_);
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;  // takes no asks
  bool broken_ ABSL_GUARDED_BY(mu_) = false;   // takes no writes
  bool unheld_ ABSL_GUARDED_BY(mu_) = false;
};

namespace {

class RemoteRight final : public Claim::Right {
 public:
  RemoteRight(std::shared_ptr<FlightStreamCall> stream, uint64_t claim)
      : stream_(std::move(stream)), claim_(claim) {}
  ~RemoteRight() override {
    if (!stream_->inherited()) {
      stream_->Release(claim_, /*give_up=*/!fulfilled_);
    } else {
      // The last one would destroy what gRPC has in the parent.
      new std::shared_ptr<FlightStreamCall>(std::move(stream_));
    }
  }
  void Fulfilled() override { fulfilled_ = true; }

 private:
  std::shared_ptr<FlightStreamCall> stream_;
  const uint64_t claim_;
  bool fulfilled_ = false;
};

}  // namespace

void FlightStreamCall::OnEvent(v1::ClaimEvent& event) {
  v1::ClaimAnswer& answer = *event.mutable_answer();
  if (answer.state() == v1::CLAIM_STATE_WAIT) return;
  std::shared_ptr<Ask> ask;
  {
    absl::MutexLock lock(&mu_);
    const auto it = asks_.find(event.request());
    const bool wanted = it != asks_.end() && event.index() < it->second->keys.size() &&
                        !std::exchange(it->second->heard[event.index()], char{true});
    if (!wanted) {
      // Nobody waits here any more; others do.
      if (answer.claim() != 0) GiveUpClaim(answer.claim());
      return;
    }
    if (answer.claim() != 0) ++claims_;
    ask = it->second;
    if (--ask->left == 0) {
      ask->deadline.Cancel();
      asks_.erase(it);
    }
  }
  std::vector<ClaimWord> words;
  words.push_back(MakeWord(*ask, event.index(), answer));
  (*ask->words)(std::move(words));
}

ClaimWord FlightStreamCall::MakeWord(const Ask& ask, size_t index, v1::ClaimAnswer& answer) {
  ClaimWord word = {.index = ask.first + index};
  std::unique_ptr<RemoteRight> right;
  if (answer.claim() != 0) right = std::make_unique<RemoteRight>(Self(), answer.claim());
  if (answer.state() == v1::CLAIM_STATE_HIT) {
    word.state = State::kVisible;
  } else if (answer.state() == v1::CLAIM_STATE_WIN && right != nullptr) {
    word.state = State::kWon;
    word.claim.emplace(ask.keys[index], std::move(right));
  } else if (answer.state() != v1::CLAIM_STATE_MISS) {
    word.status = BadAnswer("a key that is neither there nor missing");
  } else if (answer.code() != 0) {
    word.status = SaidByDaemon(answer.code(), answer.message());
  }
  return word;
}

RemoteFlights::RemoteFlights() = default;
RemoteFlights::~RemoteFlights() = default;

void StartRemoteFlight(RemoteBackend& backend, std::span<const std::string_view> keys,
                       absl::Time deadline, absl::Duration claim_time,
                       Transport::OnWords on_words) {
  const auto words = std::make_shared<Transport::OnWords>(std::move(on_words));
  std::vector<std::shared_ptr<Ask>> asks;
  for (size_t first = 0; first < keys.size();) {
    std::vector<std::string> some;
    size_t bytes = 0;
    while (first + some.size() < keys.size() && some.size() < kMaxItemsPerFrame) {
      const std::string_view key = keys[first + some.size()];
      bytes += key.size();
      if (bytes > kMaxKeyBytesPerAsk && !some.empty()) break;
      some.emplace_back(key);
    }
    const size_t count = some.size();
    asks.push_back(std::make_shared<Ask>(backend.calls, first, std::move(some), words));
    first += count;
  }
  for (std::shared_ptr<Ask>& ask : asks) {
    backend.flights.WithStream([&] { return std::make_shared<FlightStreamCall>(backend); },
                               [&](FlightStreamCall& stream, bool made) {
                                 const bool added = stream.Add(ask, deadline, claim_time);
                                 if (made) stream.Start();
                                 return added;
                               });
  }
}

}  // namespace infercache
