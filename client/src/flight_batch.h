// A GetOrReserve as the caller sees it, over any transport: what is there is got, what is missing
// is asked for, and what others computed meanwhile is got again.
//
//   Get ──hit──────────────────────────────────► object
//    ▲ └─miss──► GetOrReserve ──won────────────► claim
//    │              │  ▲      └─miss, failure──► neither
//    └──visible─────┘  └ was visible, and is gone again
//
// Thread-safe: callbacks of the transport arrive on any threads. Kept alive by them.

#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "client/src/transport.h"
#include "common/mutex.h"

namespace infercache {

class FlightBatch : public std::enable_shared_from_this<FlightBatch> {
 public:
  using Pieces = std::vector<GetOrReservePiece>;
  // One call at a time, without locks. `reached` counts in the last one.
  using OnPieces = absl::AnyInvocable<void(Pieces pieces, bool last, Reached reached)>;

  // `known_missing`: the keys have been looked for already. REQUIRES: keys; `transport` outlives
  // the last call of `on_pieces`, which its destructor waits for.
  static void Start(Transport& transport, std::span<const std::string_view> keys,
                    bool known_missing, absl::Time deadline, absl::Duration claim_time,
                    OnPieces on_pieces);

  FlightBatch(Transport& transport, std::span<const std::string_view> keys, absl::Time deadline,
              absl::Duration claim_time, OnPieces on_pieces);

 private:
  using Indices = std::vector<size_t>;

  void Get(Indices indices);
  void OnGot(const Indices& indices, std::vector<GetResult> results, Reached reached);
  void Ask(Indices indices);
  void OnWords(const Indices& indices, std::vector<ClaimWord> words);
  // Hands pieces on, in turn with other threads.
  void Emit(Pieces pieces) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<std::string_view> KeysOf(const Indices& indices) const;

  Transport& transport_;
  const std::vector<std::string> keys_;
  const absl::Time deadline_;
  const absl::Duration claim_time_;
  OnPieces on_pieces_;  // whoever emits

  Mutex mu_;
  std::vector<char> asked_ ABSL_GUARDED_BY(mu_);  // how often, by key
  Pieces unsent_ ABSL_GUARDED_BY(mu_);
  size_t left_ ABSL_GUARDED_BY(mu_);
  bool emitting_ ABSL_GUARDED_BY(mu_) = false;
  Reached reached_ ABSL_GUARDED_BY(mu_) = Reached::kNotAsked;
};

}  // namespace infercache
