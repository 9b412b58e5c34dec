#include "client/src/client_impl.h"

#include <chrono>

#include "absl/strings/str_cat.h"

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

}  // namespace

Client::Impl::Impl(const ClientOptions& options, std::string endpoint,
                   std::unique_ptr<CompletionQueue> completions,
                   std::unique_ptr<Transport> transport, LocalTransport* local)
    : deadline_(options.deadline),
      endpoint_(std::move(endpoint)),
      breaker_(options.breaker_failures, options.breaker_probe_interval,
               options.clock ? options.clock : SteadyNow),
      completions_(std::move(completions)),
      transport_(std::move(transport)),
      local_(local) {}

CompletionQueue& Client::Impl::completions() {
  if (!inherited()) [[likely]]
    return *completions_;
  CompletionQueue* found = child_completions_.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  auto created = CompletionQueue::Create();
  auto made = created.ok() ? *std::move(created) : CompletionQueue::WithoutDescriptor();
  if (child_completions_.compare_exchange_strong(found, made.get(), std::memory_order_acq_rel)) {
    return *made.release();
  }
  return *found;
}

void Client::Impl::Get(std::span<const std::string_view> keys, const CallOptions& call,
                       Deliver<std::vector<GetResult>> deliver) {
  std::vector<GetResult> results;
  if (local() != nullptr && local()->TryGet(keys, LocalTransport::Copies::kAllowed, &results)) {
    return deliver(std::move(results));
  }
  Run<std::vector<GetResult>>(
      keys.size(), call, std::move(deliver),
      [&](absl::Time deadline, auto done) { transport_->Get(keys, deadline, std::move(done)); });
}

void Client::Impl::GetInto(std::span<const std::string_view> keys,
                           std::span<const std::span<std::byte>> destinations,
                           const CallOptions& call, Deliver<std::vector<GetIntoResult>> deliver) {
  if (keys.size() != destinations.size()) {
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrCat(destinations.size(), " destinations for ", keys.size(), " keys"));
    return deliver(Failed<std::vector<GetIntoResult>>(status, keys.size()));
  }
  std::vector<GetIntoResult> results;
  if (local() != nullptr && local()->TryGetInto(keys, destinations, &results)) {
    return deliver(std::move(results));
  }
  Run<std::vector<GetIntoResult>>(
      keys.size(), call, std::move(deliver), [&](absl::Time deadline, auto done) {
        transport_->GetInto(keys, destinations, deadline, std::move(done));
      });
}

void Client::Impl::Put(std::span<const PutItem> items, const CallOptions& call,
                       Deliver<std::vector<PutResult>> deliver) {
  Run<std::vector<PutResult>>(
      items.size(), call, std::move(deliver),
      [&](absl::Time deadline, auto done) { transport_->Put(items, deadline, std::move(done)); });
}

void Client::Impl::Reserve(std::span<const ReserveItem> items, const CallOptions& call,
                           Deliver<std::vector<ReserveResult>> deliver) {
  Run<std::vector<ReserveResult>>(items.size(), call, std::move(deliver),
                                  [&](absl::Time deadline, auto done) {
                                    transport_->Reserve(items, deadline, std::move(done));
                                  });
}

void Client::Impl::Commit(std::span<Reservation> reservations, const CallOptions& call,
                          Deliver<std::vector<PutResult>> deliver) {
  Run<std::vector<PutResult>>(reservations.size(), call, std::move(deliver),
                              [&](absl::Time deadline, auto done) {
                                transport_->Commit(reservations, deadline, std::move(done));
                              });
}

void Client::Impl::Match(std::span<const std::string_view> keys, const CallOptions& call,
                         Deliver<MatchResult> deliver) {
  MatchResult result;
  if (local() != nullptr && local()->TryMatch(keys, &result)) return deliver(std::move(result));
  Run<MatchResult>(keys.size(), call, std::move(deliver), [&](absl::Time deadline, auto done) {
    transport_->Match(keys, deadline, std::move(done));
  });
}

void Client::Impl::Keys(KeysVerb verb, std::span<const std::string_view> keys,
                        const CallOptions& call, Deliver<KeysResult> deliver) {
  KeysResult result;
  if (local() != nullptr && local()->TryKeys(verb, keys, &result)) {
    return deliver(std::move(result));
  }
  Run<KeysResult>(keys.size(), call, std::move(deliver), [&](absl::Time deadline, auto done) {
    transport_->Keys(verb, keys, deadline, std::move(done));
  });
}

void Client::Impl::List(std::string_view key_prefix, uint32_t page_size,
                        std::string_view page_token, const CallOptions& call,
                        Deliver<ListResult> deliver) {
  Run<ListResult>(1, call, std::move(deliver), [&](absl::Time deadline, auto done) {
    transport_->List(key_prefix, page_size, page_token, deadline, std::move(done));
  });
}

void Client::Impl::Ping(const CallOptions& call, Deliver<absl::Status> deliver) {
  const absl::Duration timeout = call.deadline.value_or(deadline_);
  if (absl::Status status = Check(timeout, /*heed_breaker=*/false); !status.ok()) {
    return deliver(std::move(status));
  }
  transport_->Ping(/*wait_for_daemon=*/false, absl::Now() + timeout,
                   Report<absl::Status>(timeout, std::move(deliver)));
}

absl::Status Client::Impl::Check(absl::Duration timeout, bool heed_breaker) {
  if (inherited()) {
    return absl::UnavailableError(
        "the client belongs to the parent process; make one in this process");
  }
  if (timeout <= absl::ZeroDuration()) {
    return absl::DeadlineExceededError("the deadline was over before the call");
  }
  return heed_breaker ? Admit() : absl::OkStatus();
}

absl::Status Client::Impl::Admit() {
  const CircuitBreaker::Admission admission = breaker_.Admit();
  if (admission == CircuitBreaker::Admission::kAllow) return absl::OkStatus();
  if (admission == CircuitBreaker::Admission::kRefuseAndProbe) Probe();
  return absl::UnavailableError(absl::StrCat(
      "infercached at ", endpoint_, " did not answer; not asked again until a probe is answered"));
}

void Client::Impl::Probe() {
  transport_->Ping(
      /*wait_for_daemon=*/true, absl::Now() + kProbeDeadline,
      [this](const absl::Status&, Reached reached) { breaker_.OnProbe(reached == Reached::kYes); });
}

void Client::Impl::Account(Reached reached, absl::Duration timeout) {
  switch (reached) {
    case Reached::kYes:
      return breaker_.OnAnswered();
    case Reached::kNo:
      // On the local lane that is the kernel's word, and so will be the opposite.
      if (local_ == nullptr) breaker_.OnUnreachable();
      return;
    case Reached::kNotInTime:
      if (timeout >= kTellingTimeout) breaker_.OnUnreachable();
      return;
    case Reached::kNotAsked:
      return;
  }
}

}  // namespace infercache
