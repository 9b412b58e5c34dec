#include "client/src/flight_batch.h"

#include <utility>

#include "absl/time/clock.h"

namespace infercache {
namespace {

// A key that is stored and evicted over and over is computed without a claim in the end.
constexpr char kMaxAsks = 16;

}  // namespace

void FlightBatch::Start(Transport& transport, std::span<const std::string_view> keys,
                        bool known_missing, absl::Time deadline, absl::Duration claim_time,
                        OnPieces on_pieces) {
  auto batch =
      std::make_shared<FlightBatch>(transport, keys, deadline, claim_time, std::move(on_pieces));
  Indices all(keys.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  known_missing ? batch->Ask(std::move(all)) : batch->Get(std::move(all));
}

FlightBatch::FlightBatch(Transport& transport, std::span<const std::string_view> keys,
                         absl::Time deadline, absl::Duration claim_time, OnPieces on_pieces)
    : transport_(transport),
      keys_(keys.begin(), keys.end()),
      deadline_(deadline),
      claim_time_(claim_time),
      on_pieces_(std::move(on_pieces)),
      asked_(keys.size(), 0),
      left_(keys.size()) {}

std::vector<std::string_view> FlightBatch::KeysOf(const Indices& indices) const {
  std::vector<std::string_view> keys;
  keys.reserve(indices.size());
  for (const size_t i : indices) keys.push_back(keys_[i]);
  return keys;
}

void FlightBatch::Get(Indices indices) {
  const std::vector<std::string_view> keys = KeysOf(indices);
  transport_.Get(keys, deadline_,
                 [self = shared_from_this(), indices = std::move(indices)](
                     std::vector<GetResult> results, Reached reached) {
                   self->OnGot(indices, std::move(results), reached);
                 });
}

void FlightBatch::OnGot(const Indices& indices, std::vector<GetResult> results, Reached reached) {
  Pieces pieces;
  Indices missing;
  {
    MutexLock lock(&mu_);
    if (reached_ != Reached::kNo) reached_ = reached;
    for (size_t k = 0; k < indices.size(); ++k) {
      GetResult& result = results[k];
      const bool miss = !result.hit() && result.status.ok();
      if (miss && asked_[indices[k]] < kMaxAsks && absl::Now() < deadline_) {
        missing.push_back(indices[k]);
        continue;
      }
      if (miss) result.status = absl::DeadlineExceededError("the key comes and goes");
      pieces.push_back(
          {.index = indices[k],
           .result = {.status = std::move(result.status), .object = std::move(result.object)}});
    }
  }
  Emit(std::move(pieces));
  if (!missing.empty()) Ask(std::move(missing));
}

void FlightBatch::Ask(Indices indices) {
  {
    MutexLock lock(&mu_);
    for (const size_t i : indices) ++asked_[i];
  }
  const std::vector<std::string_view> keys = KeysOf(indices);
  transport_.GetOrReserve(
      keys, deadline_, claim_time_,
      [self = shared_from_this(), indices = std::move(indices)](std::vector<ClaimWord> words) {
        self->OnWords(indices, std::move(words));
      });
}

void FlightBatch::OnWords(const Indices& indices, std::vector<ClaimWord> words) {
  Pieces pieces;
  Indices visible;
  for (ClaimWord& word : words) {
    const size_t index = indices[word.index];
    if (word.state == ClaimWord::State::kVisible) {
      visible.push_back(index);
    } else {
      pieces.push_back(
          {.index = index,
           .result = {.status = std::move(word.status), .claim = std::move(word.claim)}});
    }
  }
  Emit(std::move(pieces));
  if (!visible.empty()) Get(std::move(visible));
}

void FlightBatch::Emit(Pieces pieces) {
  if (pieces.empty()) return;
  {
    MutexLock lock(&mu_);
    left_ -= pieces.size();
    for (GetOrReservePiece& piece : pieces) unsent_.push_back(std::move(piece));
    if (std::exchange(emitting_, true)) return;
  }
  while (true) {
    bool last = false;
    Reached reached = Reached::kNotAsked;
    {
      MutexLock lock(&mu_);
      if (unsent_.empty()) {
        emitting_ = false;
        return;
      }
      pieces = std::exchange(unsent_, {});
      last = left_ == 0;
      reached = reached_;
    }
    on_pieces_(std::move(pieces), last, reached);
  }
}

}  // namespace infercache
