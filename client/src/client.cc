#include "infercache/client.h"

#include <atomic>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/src/channel.h"
#include "client/src/circuit_breaker.h"
#include "client/src/completion_queue.h"
#include "client/src/proto_convert.h"
#include "client/src/remote_transport.h"
#include "client/src/transport.h"
#include "common/fingerprint.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

// A probe has this long to connect and be answered; more than any daemon needs that is alive.
constexpr absl::Duration kProbeDeadline = absl::Seconds(2);

// A call that had less time than this and ran out of it says nothing about the daemon: else a few
// impatient callers would open the breaker for all.
constexpr absl::Duration kTellingTimeout = absl::Milliseconds(250);

absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

absl::Status CheckNamespaceName(const std::string& name) {
  if (name.empty() || name.size() > kMaxNamespaceNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "namespace_name has ", name.size(), " bytes; the limit is 1..", kMaxNamespaceNameBytes));
  }
  for (const unsigned char c : name) {
    if (absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '_' || c == '-') {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_name has a byte other than a-z 0-9 . _ - (code ", int{c}, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const ClientOptions& options) {
  RETURN_IF_ERROR(CheckNamespaceName(options.namespace_name));
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("deadline must be positive");
  }
  if (options.max_unary_bytes == 0 || options.max_unary_bytes > (uint64_t{1} << 30)) {
    return absl::InvalidArgumentError(absl::StrCat("max_unary_bytes is ", options.max_unary_bytes,
                                                   "; the limit is 1 byte..1 GiB"));
  }
  if (options.breaker_failures < 0 || options.breaker_probe_interval < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        "breaker_failures and breaker_probe_interval must not be negative");
  }
  return absl::OkStatus();
}

// The result of a batch that failed as a whole.
template <typename Result>
Result Failed(const absl::Status& status, size_t count);

template <>
std::vector<GetResult> Failed(const absl::Status& status, size_t count) {
  std::vector<GetResult> results(count);
  for (GetResult& result : results) result.status = status;
  return results;
}
template <>
std::vector<GetIntoResult> Failed(const absl::Status& status, size_t count) {
  return std::vector<GetIntoResult>(count, {.status = status});
}
template <>
std::vector<PutResult> Failed(const absl::Status& status, size_t count) {
  return std::vector<PutResult>(count, {.status = status});
}
template <>
MatchResult Failed(const absl::Status& status, size_t) {
  return {.status = status};
}
template <>
KeysResult Failed(const absl::Status& status, size_t) {
  return {.status = status};
}
template <>
ListResult Failed(const absl::Status& status, size_t) {
  return {.status = status};
}

template <typename Result>
using Deliver = absl::AnyInvocable<void(Result result)>;

}  // namespace

// Every request goes through Run(): deadline, empty batch and breaker are decided there, once.
class Client::Impl {
 public:
  Impl(const ClientOptions& options, std::string endpoint,
       std::unique_ptr<CompletionQueue> completions, std::unique_ptr<Transport> transport)
      : deadline_(options.deadline),
        endpoint_(std::move(endpoint)),
        breaker_(options.breaker_failures, options.breaker_probe_interval,
                 options.clock ? options.clock : SteadyNow),
        completions_(std::move(completions)),
        transport_(std::move(transport)) {}

  CompletionQueue& completions() { return *completions_; }
  RequestId NextId() { return next_id_.fetch_add(1, std::memory_order_relaxed); }

  void Get(std::span<const std::string_view> keys, const CallOptions& call,
           Deliver<std::vector<GetResult>> deliver) {
    Run<std::vector<GetResult>>(
        keys.size(), call, std::move(deliver),
        [&](absl::Time deadline, auto done) { transport_->Get(keys, deadline, std::move(done)); });
  }

  void GetInto(std::span<const std::string_view> keys,
               std::span<const std::span<std::byte>> destinations, const CallOptions& call,
               Deliver<std::vector<GetIntoResult>> deliver) {
    if (keys.size() != destinations.size()) {
      const absl::Status status = absl::InvalidArgumentError(
          absl::StrCat(destinations.size(), " destinations for ", keys.size(), " keys"));
      return deliver(Failed<std::vector<GetIntoResult>>(status, keys.size()));
    }
    Run<std::vector<GetIntoResult>>(
        keys.size(), call, std::move(deliver), [&](absl::Time deadline, auto done) {
          transport_->GetInto(keys, destinations, deadline, std::move(done));
        });
  }

  void Put(std::span<const PutItem> items, const CallOptions& call,
           Deliver<std::vector<PutResult>> deliver) {
    Run<std::vector<PutResult>>(
        items.size(), call, std::move(deliver),
        [&](absl::Time deadline, auto done) { transport_->Put(items, deadline, std::move(done)); });
  }

  void Match(std::span<const std::string_view> keys, const CallOptions& call,
             Deliver<MatchResult> deliver) {
    Run<MatchResult>(keys.size(), call, std::move(deliver), [&](absl::Time deadline, auto done) {
      transport_->Match(keys, deadline, std::move(done));
    });
  }

  void Keys(KeysVerb verb, std::span<const std::string_view> keys, const CallOptions& call,
            Deliver<KeysResult> deliver) {
    Run<KeysResult>(keys.size(), call, std::move(deliver), [&](absl::Time deadline, auto done) {
      transport_->Keys(verb, keys, deadline, std::move(done));
    });
  }

  void List(std::string_view key_prefix, uint32_t page_size, std::string_view page_token,
            const CallOptions& call, Deliver<ListResult> deliver) {
    Run<ListResult>(1, call, std::move(deliver), [&](absl::Time deadline, auto done) {
      transport_->List(key_prefix, page_size, page_token, deadline, std::move(done));
    });
  }

  // Asks the daemon even if the breaker is open: that is the question.
  void Ping(const CallOptions& call, Deliver<absl::Status> deliver) {
    const absl::Duration timeout = call.deadline.value_or(deadline_);
    if (timeout <= absl::ZeroDuration()) return deliver(TooLate());
    transport_->Ping(/*wait_for_daemon=*/false, absl::Now() + timeout,
                     Report<absl::Status>(timeout, std::move(deliver)));
  }

 private:
  static absl::Status TooLate() {
    return absl::DeadlineExceededError("the deadline was over before the call");
  }

  template <typename Result, typename Start>
  void Run(size_t count, const CallOptions& call, Deliver<Result> deliver, Start start) {
    if (count == 0) return deliver(Result());
    const absl::Duration timeout = call.deadline.value_or(deadline_);
    if (timeout <= absl::ZeroDuration()) return deliver(Failed<Result>(TooLate(), count));
    const absl::Status admitted = Admit();
    if (!admitted.ok()) return deliver(Failed<Result>(admitted, count));
    start(absl::Now() + timeout, Report<Result>(timeout, std::move(deliver)));
  }

  absl::Status Admit() {
    const CircuitBreaker::Admission admission = breaker_.Admit();
    if (admission == CircuitBreaker::Admission::kAllow) return absl::OkStatus();
    if (admission == CircuitBreaker::Admission::kRefuseAndProbe) Probe();
    return absl::UnavailableError(
        absl::StrCat("infercached at ", endpoint_,
                     " did not answer; not asked again until a probe is answered"));
  }

  void Probe() {
    transport_->Ping(/*wait_for_daemon=*/true, absl::Now() + kProbeDeadline,
                     [this](const absl::Status&, Reached reached) {
                       breaker_.OnProbe(reached == Reached::kYes);
                     });
  }

  template <typename Result>
  Done<Result> Report(absl::Duration timeout, Deliver<Result> deliver) {
    const bool telling = timeout >= kTellingTimeout;
    return [this, telling, deliver = std::move(deliver)](Result result, Reached reached) mutable {
      if (reached == Reached::kYes) breaker_.OnAnswered();
      if (reached == Reached::kNo || (reached == Reached::kNotInTime && telling)) {
        breaker_.OnUnreachable();
      }
      deliver(std::move(result));
    };
  }

  // Constant after construction.
  const absl::Duration deadline_;
  const std::string endpoint_;

  // Have their own synchronization. The transport goes first: its destructor waits for callbacks
  // that use the others.
  std::atomic<RequestId> next_id_{1};
  CircuitBreaker breaker_;
  const std::unique_ptr<CompletionQueue> completions_;
  const std::unique_ptr<Transport> transport_;
};

namespace {

// Puts a result into the member of a Completion that `member` names, and the completion into the
// queue.
template <typename Result, typename Member>
Deliver<Result> Into(CompletionQueue& queue, RequestId id, Member Completion::*member) {
  return [&queue, id, member](Result result) {
    Completion completion;
    completion.id = id;
    completion.*member = std::move(result);
    queue.Push(std::move(completion));
  };
}

// Calls submit(deliver) and waits for the result. It comes: the transport keeps the deadline.
template <typename Result, typename Submit>
Result Wait(Submit submit) {
  absl::Notification done;
  std::optional<Result> result;
  submit(Deliver<Result>([&done, &result](Result r) {
    result.emplace(std::move(r));
    done.Notify();
  }));
  done.WaitForNotification();
  return *std::move(result);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const Fingerprint fingerprint, Fingerprint::Make(options.fingerprint));
  ASSIGN_OR_RETURN(RemoteChannel channel, MakeChannel(options));
  ASSIGN_OR_RETURN(std::unique_ptr<CompletionQueue> completions, CompletionQueue::Create());
  std::string endpoint = channel.endpoint.text;
  auto transport = std::make_unique<RemoteTransport>(
      std::move(channel), ToProto(options.namespace_name, fingerprint.entries()),
      options.max_unary_bytes);
  return std::unique_ptr<Client>(new Client(std::make_unique<Impl>(
      options, std::move(endpoint), std::move(completions), std::move(transport))));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

RequestId Client::SubmitGet(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Get(keys, call, Into<std::vector<GetResult>>(impl_->completions(), id, &Completion::get));
  return id;
}

RequestId Client::SubmitGetInto(std::span<const std::string_view> keys,
                                std::span<const std::span<std::byte>> destinations,
                                const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->GetInto(keys, destinations, call,
                 Into<std::vector<GetIntoResult>>(impl_->completions(), id, &Completion::get_into));
  return id;
}

RequestId Client::SubmitPut(std::span<const PutItem> items, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Put(items, call, Into<std::vector<PutResult>>(impl_->completions(), id, &Completion::put));
  return id;
}

RequestId Client::SubmitMatch(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Match(keys, call, Into<MatchResult>(impl_->completions(), id, &Completion::match));
  return id;
}

RequestId Client::SubmitExists(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Keys(KeysVerb::kExists, keys, call,
              Into<KeysResult>(impl_->completions(), id, &Completion::keys));
  return id;
}

RequestId Client::SubmitDelete(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Keys(KeysVerb::kDelete, keys, call,
              Into<KeysResult>(impl_->completions(), id, &Completion::keys));
  return id;
}

RequestId Client::SubmitTouch(std::span<const std::string_view> keys, const CallOptions& call) {
  const RequestId id = impl_->NextId();
  impl_->Keys(KeysVerb::kTouch, keys, call,
              Into<KeysResult>(impl_->completions(), id, &Completion::keys));
  return id;
}

int Client::event_fd() const { return impl_->completions().event_fd(); }

std::vector<Completion> Client::Drain() { return impl_->completions().Drain(); }

GetResult Client::Get(std::string_view key, const CallOptions& call) {
  return std::move(Get(std::span(&key, 1), call).front());
}

std::vector<GetResult> Client::Get(std::span<const std::string_view> keys,
                                   const CallOptions& call) {
  return Wait<std::vector<GetResult>>(
      [&](auto deliver) { impl_->Get(keys, call, std::move(deliver)); });
}

GetIntoResult Client::GetInto(std::string_view key, std::span<std::byte> destination,
                              const CallOptions& call) {
  return Wait<std::vector<GetIntoResult>>([&](auto deliver) {
           impl_->GetInto(std::span(&key, 1), std::span(&destination, 1), call, std::move(deliver));
         })
      .front();
}

PutResult Client::Put(const PutItem& item, const CallOptions& call) {
  return Put(std::span(&item, 1), call).front();
}

std::vector<PutResult> Client::Put(std::span<const PutItem> items, const CallOptions& call) {
  return Wait<std::vector<PutResult>>(
      [&](auto deliver) { impl_->Put(items, call, std::move(deliver)); });
}

MatchResult Client::Match(std::span<const std::string_view> keys, const CallOptions& call) {
  return Wait<MatchResult>([&](auto deliver) { impl_->Match(keys, call, std::move(deliver)); });
}

KeysResult Client::Exists(std::span<const std::string_view> keys, const CallOptions& call) {
  return Wait<KeysResult>(
      [&](auto deliver) { impl_->Keys(KeysVerb::kExists, keys, call, std::move(deliver)); });
}

KeysResult Client::Delete(std::span<const std::string_view> keys, const CallOptions& call) {
  return Wait<KeysResult>(
      [&](auto deliver) { impl_->Keys(KeysVerb::kDelete, keys, call, std::move(deliver)); });
}

KeysResult Client::Touch(std::span<const std::string_view> keys, const CallOptions& call) {
  return Wait<KeysResult>(
      [&](auto deliver) { impl_->Keys(KeysVerb::kTouch, keys, call, std::move(deliver)); });
}

ListResult Client::List(std::string_view key_prefix, uint32_t page_size,
                        std::string_view page_token, const CallOptions& call) {
  return Wait<ListResult>([&](auto deliver) {
    impl_->List(key_prefix, page_size, page_token, call, std::move(deliver));
  });
}

absl::Status Client::Ping(const CallOptions& call) {
  return Wait<absl::Status>([&](auto deliver) { impl_->Ping(call, std::move(deliver)); });
}

}  // namespace infercache
