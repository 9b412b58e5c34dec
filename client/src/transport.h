// A way to reach a daemon's cache: over gRPC, or through shared memory on the same host.
//
// Every call takes a batch that is not empty and a deadline that is not over, returns without
// waiting, and calls `done` exactly once, on any thread, possibly before it returns. `done` must
// not block and must not destroy the transport. Results are in the order of the keys.
//
// Lifetime: spans of keys and items are used only until the call returns; the memory of values and
// destinations until `done` is called, and never after. The destructor cancels what is under way
// (CANCELLED) and returns when every `done` has returned.
//
// Thread-safe.

#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "infercache/client.h"

namespace infercache {

// Whether the daemon said something, be it an error, or nobody did; or nobody did before the
// deadline was over, which for a short one says little about the daemon; or there was no need to
// ask.
enum class Reached { kYes, kNo, kNotInTime, kNotAsked };

template <typename Result>
using Done = absl::AnyInvocable<void(Result result, Reached reached)>;

enum class KeysVerb { kExists, kDelete, kTouch };

// What the daemon says of one key that a client would compute.
struct ClaimWord {
  size_t index = 0;
  enum class State {
    kVisible,  // it is there: to be got as any object
    kWon,      // `claim` is this client's
    kMiss,     // `status` says why, if there is a reason
  };
  State state = State::kMiss;
  absl::Status status = {};
  std::optional<Claim> claim = {};
};

class Transport {
 public:
  virtual ~Transport() = default;

  virtual void Get(std::span<const std::string_view> keys, absl::Time deadline,
                   Done<std::vector<GetResult>> done) = 0;
  // REQUIRES: as many destinations as keys.
  virtual void GetInto(std::span<const std::string_view> keys,
                       std::span<const std::span<std::byte>> destinations, absl::Time deadline,
                       Done<std::vector<GetIntoResult>> done) = 0;
  virtual void Put(std::span<const PutItem> items, absl::Time deadline,
                   Done<std::vector<PutResult>> done) = 0;
  // What Put does, in two steps. Takes the reservations before it returns.
  virtual void Reserve(std::span<const ReserveItem> items, absl::Time deadline,
                       Done<std::vector<ReserveResult>> done) = 0;
  virtual void Commit(std::span<Reservation> reservations, absl::Time deadline,
                      Done<std::vector<PutResult>> done) = 0;
  // Asks for the right to compute `keys`, and waits until the deadline for others that have it.
  // `on_words` is called any number of times, by several threads at once, and hears of every key
  // exactly once; until it has of all, it counts as a `done` that was not called.
  using OnWords = absl::AnyInvocable<void(std::vector<ClaimWord> words)>;
  virtual void GetOrReserve(std::span<const std::string_view> keys, absl::Time deadline,
                            absl::Duration claim_time, OnWords on_words) = 0;
  virtual void Match(std::span<const std::string_view> keys, absl::Time deadline,
                     Done<MatchResult> done) = 0;
  virtual void Keys(KeysVerb verb, std::span<const std::string_view> keys, absl::Time deadline,
                    Done<KeysResult> done) = 0;
  virtual void List(std::string_view key_prefix, uint32_t page_size, std::string_view page_token,
                    absl::Time deadline, Done<ListResult> done) = 0;
  // OK if the daemon answers and serves. With `wait_for_daemon` one that cannot be connected to is
  // waited for until the deadline.
  virtual void Ping(bool wait_for_daemon, absl::Time deadline, Done<absl::Status> done) = 0;
};

}  // namespace infercache
