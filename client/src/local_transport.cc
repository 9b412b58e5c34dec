#include "client/src/local_transport.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/src/local_conversation.h"
#include "client/src/local_flight.h"
#include "client/src/local_puts.h"
#include "client/src/local_reads.h"
#include "client/src/local_requests.h"
#include "client/src/local_reserve.h"
#include "client/src/results.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"

namespace infercache {
namespace {

using Settled = LocalReader::Settled;

LocalDeadline ToLocal(absl::Time deadline) {
  // An infinite one becomes a day.
  const absl::Duration left =
      std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(24));
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left);
}

bool IsLegal(std::string_view key) { return key.size() - 1 < kMaxKeyBytes; }

absl::Status CheckKeys(std::span<const std::string_view> keys) {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (IsLegal(keys[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("keys[", i, "]: ", keys[i].size(), " bytes; a key has 1 to ", kMaxKeyBytes));
  }
  return absl::OkStatus();
}

bool AreLegal(std::span<const std::string_view> keys) {
  return std::all_of(keys.begin(), keys.end(), IsLegal);
}

// Keys that stay when the caller's are gone. In one piece: a batch may have tens of thousands.
class OwnedKeys {
 public:
  explicit OwnedKeys(std::span<const std::string_view> keys) {
    size_t bytes = 0;
    for (const std::string_view key : keys) bytes += key.size();
    bytes_.reserve(bytes);
    keys_.reserve(keys.size());
    for (const std::string_view key : keys) {
      bytes_.append(key);
      keys_.emplace_back(bytes_.data() + bytes_.size() - key.size(), key.size());
    }
  }
  OwnedKeys(const OwnedKeys&) = delete;
  OwnedKeys& operator=(const OwnedKeys&) = delete;

  std::span<const std::string_view> keys() const { return keys_; }

 private:
  std::string bytes_;
  std::vector<std::string_view> keys_;
};

// A conversation with its own copy of what it is about.
template <typename Base>
class WithKeys final : private OwnedKeys, public Base {
 public:
  template <typename Make>
  WithKeys(std::span<const std::string_view> keys, Make make)
      : OwnedKeys(keys), Base(make(OwnedKeys::keys())) {}
};

template <typename Item>
std::vector<Item> Rekeyed(std::span<const Item> items, std::span<const std::string_view> keys) {
  std::vector<Item> copies(items.begin(), items.end());
  for (size_t i = 0; i < copies.size(); ++i) copies[i].key = keys[i];
  return copies;
}

template <typename Item>
std::vector<std::string_view> KeysOf(std::span<const Item> items) {
  std::vector<std::string_view> keys;
  keys.reserve(items.size());
  for (const Item& item : items) keys.push_back(item.key);
  return keys;
}

template <typename Item>
struct OwnedItems {
  explicit OwnedItems(std::span<const Item> items)
      : keys(KeysOf(items)), copies(Rekeyed(items, keys.keys())) {}
  const OwnedKeys keys;
  const std::vector<Item> copies;
};

template <typename Base, typename Item>
class WithItems final : private OwnedItems<Item>, public Base {
 public:
  template <typename Make>
  WithItems(std::span<const Item> items, Make make)
      : OwnedItems<Item>(items), Base(make(std::span<const Item>(this->copies))) {}
};

// The result of a synchronous conversation goes to whoever waits.
template <typename Result>
Done<Result> Nobody() {
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalTransport>> LocalTransport::Connect(Options options) {
  std::unique_ptr<LocalTransport> transport(new LocalTransport(std::move(options.clock)));
  ASSIGN_OR_RETURN(
      transport->link_,
      LocalLink::Start({.path = std::move(options.path),
                        .scope = ToScope(options.namespace_name, options.fingerprint.entries()),
                        .fingerprint = options.fingerprint.hash(),
                        .device = std::move(options.device)},
                       transport->lanes_));
  return transport;
}

LocalTransport::LocalTransport(std::function<absl::Time()> clock)
    : reader_(lanes_, std::move(clock)) {}

// --- Without the daemon ---

bool LocalTransport::TryGetInto(std::string_view key, std::span<std::byte> destination,
                                GetIntoResult* result) {
  if (!IsLegal(key)) return false;
  if (reader_.GetInto(key, destination, result) == Settled::kDecided) [[likely]]
    return true;
  *result = {};
  return false;
}

bool LocalTransport::TryGet(std::string_view key, Copies copies, GetResult* result) {
  if (!IsLegal(key)) return false;
  if (reader_.Get(key, copies, result) == Settled::kDecided) [[likely]]
    return true;
  *result = {};
  return false;
}

bool LocalTransport::TryGetInto(std::span<const std::string_view> keys,
                                std::span<const std::span<std::byte>> destinations,
                                std::vector<GetIntoResult>* results) {
  if (!AreLegal(keys)) return false;
  std::vector<size_t> left;
  results->resize(keys.size());
  if (reader_.GetInto(keys, destinations, *results, &left) == Settled::kDecided) return true;
  results->clear();
  return false;
}

bool LocalTransport::TryGet(std::span<const std::string_view> keys, Copies copies,
                            std::vector<GetResult>* results) {
  // More slots are worth a round trip.
  if (!AreLegal(keys) || reader_.SlotsLacking(keys.size()) > 0) return false;
  std::vector<size_t> left;
  results->resize(keys.size());
  if (reader_.Get(keys, copies, *results, &left) == Settled::kDecided) return true;
  results->clear();
  return false;
}

bool LocalTransport::TryMatch(std::span<const std::string_view> keys, MatchResult* result) {
  if (!AreLegal(keys)) return false;
  std::vector<size_t> left;
  result->present.assign(keys.size(), false);
  result->size_bytes.assign(keys.size(), 0);
  if (reader_.Match(keys, /*touch=*/true, &result->present, &result->size_bytes, &left) !=
      Settled::kDecided) {
    *result = {};
    return false;
  }
  result->prefix_length = static_cast<size_t>(
      std::find(result->present.begin(), result->present.end(), false) - result->present.begin());
  return true;
}

bool LocalTransport::TryKeys(KeysVerb verb, std::span<const std::string_view> keys,
                             KeysResult* result) {
  if (verb == KeysVerb::kDelete || !AreLegal(keys)) return false;
  std::vector<size_t> left;
  result->flags.assign(keys.size(), false);
  if (reader_.Match(keys, verb == KeysVerb::kTouch, &result->flags, nullptr, &left) ==
      Settled::kDecided) {
    return true;
  }
  *result = {};
  return false;
}

// --- In this thread ---

std::vector<GetResult> LocalTransport::GetNow(std::span<const std::string_view> keys, Copies copies,
                                              absl::Time deadline, Reached* reached) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    return FailedBatch<GetResult>(status, keys.size());
  }
  GetConversation get(reader_, keys, copies, Nobody<std::vector<GetResult>>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, get);
  *reached = get.reached();
  return std::move(get.results);
}

std::vector<GetIntoResult> LocalTransport::GetIntoNow(
    std::span<const std::string_view> keys, std::span<const std::span<std::byte>> destinations,
    absl::Time deadline, Reached* reached) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    return FailedBatch<GetIntoResult>(status, keys.size());
  }
  GetIntoConversation get(reader_, keys, destinations, Nobody<std::vector<GetIntoResult>>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, get);
  *reached = get.reached();
  return std::move(get.results);
}

std::vector<PutResult> LocalTransport::PutNow(std::span<const PutItem> items, absl::Time deadline,
                                              Reached* reached) {
  PutConversation put(items, Nobody<std::vector<PutResult>>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, put);
  *reached = put.reached();
  return std::move(put.results);
}

std::vector<ReserveResult> LocalTransport::ReserveNow(std::span<const ReserveItem> items,
                                                      absl::Time deadline, Reached* reached) {
  ReserveConversation reserve(this, items, Nobody<std::vector<ReserveResult>>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, reserve);
  *reached = reserve.reached();
  return std::move(reserve.results);
}

std::vector<PutResult> LocalTransport::CommitNow(std::span<Reservation> reservations,
                                                 absl::Time deadline, Reached* reached) {
  CommitConversation commit(this, reservations, Nobody<std::vector<PutResult>>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, commit);
  *reached = commit.reached();
  return std::move(commit.results);
}

MatchResult LocalTransport::MatchNow(std::span<const std::string_view> keys, absl::Time deadline,
                                     Reached* reached) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) return {.status = status};
  MatchConversation match(reader_, keys, /*touch=*/true, Nobody<MatchResult>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, match);
  *reached = match.reached();
  return match.TakeResult();
}

KeysResult LocalTransport::KeysNow(KeysVerb verb, std::span<const std::string_view> keys,
                                   absl::Time deadline, Reached* reached) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) return {.status = status};
  if (verb == KeysVerb::kDelete) {
    RemoveConversation remove(keys, Nobody<KeysResult>());
    HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, remove);
    *reached = remove.reached();
    return std::move(remove.result);
  }
  MatchConversation match(reader_, keys, verb == KeysVerb::kTouch, Nobody<MatchResult>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, match);
  *reached = match.reached();
  MatchResult result = match.TakeResult();
  return {.status = std::move(result.status), .flags = std::move(result.present)};
}

ListResult LocalTransport::ListNow(std::string_view key_prefix, uint32_t page_size,
                                   std::string_view page_token, absl::Time deadline,
                                   Reached* reached) {
  ListConversation list(key_prefix, page_size, page_token, Nobody<ListResult>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, list);
  *reached = list.reached();
  return std::move(list.result);
}

absl::Status LocalTransport::PingNow(absl::Time deadline, Reached* reached) {
  PingConversation ping(Nobody<absl::Status>());
  HoldNow(*link_, ToLocal(deadline), /*wait_for_daemon=*/false, ping);
  *reached = ping.reached();
  return std::move(ping.result);
}

// --- Transport ---

void LocalTransport::Get(std::span<const std::string_view> keys, absl::Time deadline,
                         Done<std::vector<GetResult>> done) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    return done(FailedBatch<GetResult>(status, keys.size()), Reached::kYes);
  }
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<WithKeys<GetConversation>>(keys, [&](auto owned) {
         return GetConversation(reader_, owned, Copies::kAllowed, std::move(done));
       }));
}

void LocalTransport::GetInto(std::span<const std::string_view> keys,
                             std::span<const std::span<std::byte>> destinations,
                             absl::Time deadline, Done<std::vector<GetIntoResult>> done) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    return done(FailedBatch<GetIntoResult>(status, keys.size()), Reached::kYes);
  }
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<WithKeys<GetIntoConversation>>(keys, [&](auto owned) {
         return GetIntoConversation(reader_, owned, destinations, std::move(done));
       }));
}

void LocalTransport::Put(std::span<const PutItem> items, absl::Time deadline,
                         Done<std::vector<PutResult>> done) {
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<WithItems<PutConversation, PutItem>>(
           items, [&](auto owned) { return PutConversation(owned, std::move(done)); }));
}

void LocalTransport::Reserve(std::span<const ReserveItem> items, absl::Time deadline,
                             Done<std::vector<ReserveResult>> done) {
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<WithItems<ReserveConversation, ReserveItem>>(
           items, [&](auto owned) { return ReserveConversation(this, owned, std::move(done)); }));
}

void LocalTransport::Commit(std::span<Reservation> reservations, absl::Time deadline,
                            Done<std::vector<PutResult>> done) {
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<CommitConversation>(this, reservations, std::move(done)));
}

void LocalTransport::GetOrReserve(std::span<const std::string_view> keys, absl::Time deadline,
                                  absl::Duration claim_time, OnWords on_words) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    std::vector<ClaimWord> words(keys.size());
    for (size_t i = 0; i < words.size(); ++i) words[i] = {.index = i, .status = status};
    return on_words(std::move(words));
  }
  StartLocalFlight(*link_, keys, ToLocal(deadline), claim_time, std::move(on_words));
}

void LocalTransport::Match(std::span<const std::string_view> keys, absl::Time deadline,
                           Done<MatchResult> done) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    return done({.status = status}, Reached::kYes);
  }
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<WithKeys<MatchConversation>>(keys, [&](auto owned) {
         return MatchConversation(reader_, owned, /*touch=*/true, std::move(done));
       }));
}

void LocalTransport::Keys(KeysVerb verb, std::span<const std::string_view> keys,
                          absl::Time deadline, Done<KeysResult> done) {
  if (absl::Status status = CheckKeys(keys); !status.ok()) {
    return done({.status = status}, Reached::kYes);
  }
  if (verb == KeysVerb::kDelete) {
    return Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
                std::make_unique<WithKeys<RemoveConversation>>(
                    keys, [&](auto owned) { return RemoveConversation(owned, std::move(done)); }));
  }
  Done<MatchResult> take_flags = [done = std::move(done)](MatchResult match,
                                                          Reached reached) mutable {
    done({.status = std::move(match.status), .flags = std::move(match.present)}, reached);
  };
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<WithKeys<MatchConversation>>(keys, [&](auto owned) {
         return MatchConversation(reader_, owned, verb == KeysVerb::kTouch, std::move(take_flags));
       }));
}

void LocalTransport::List(std::string_view key_prefix, uint32_t page_size,
                          std::string_view page_token, absl::Time deadline, Done<ListResult> done) {
  Hold(*link_, ToLocal(deadline), /*wait_for_daemon=*/false,
       std::make_unique<ListConversation>(key_prefix, page_size, page_token, std::move(done)));
}

void LocalTransport::Ping(bool wait_for_daemon, absl::Time deadline, Done<absl::Status> done) {
  Hold(*link_, ToLocal(deadline), wait_for_daemon,
       std::make_unique<PingConversation>(std::move(done)));
}

}  // namespace infercache
