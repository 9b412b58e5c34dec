// Single flight of a Client: GetOrReserve and GetOrCompute.

#include <numeric>
#include <utility>

#include "client/src/client_impl.h"
#include "client/src/compute.h"

namespace infercache {
namespace {

using Pieces = FlightBatch::Pieces;

Pieces FailedPieces(const absl::Status& status, size_t count) {
  Pieces pieces(count);
  for (size_t i = 0; i < count; ++i) pieces[i] = {.index = i, .result = {.status = status}};
  return pieces;
}

}  // namespace

void Client::Impl::GetOrReserve(std::span<const std::string_view> keys,
                                const ComputeOptions& options, FlightBatch::OnPieces on_pieces) {
  if (keys.empty()) return on_pieces({}, /*last=*/true, Reached::kNotAsked);
  const absl::Duration timeout = options.deadline.value_or(deadline_);
  // What shared memory settles, it settles without the daemon.
  std::vector<GetResult> known;
  std::vector<size_t> indices;
  const bool settled =
      local() != nullptr && local()->TryGet(keys, LocalTransport::Copies::kAllowed, &known);
  Pieces pieces;
  std::vector<std::string_view> missing;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (settled && (known[i].hit() || !known[i].status.ok())) {
      pieces.push_back(
          {.index = i,
           .result = {.status = std::move(known[i].status), .object = std::move(known[i].object)}});
    } else {
      indices.push_back(i);
      missing.push_back(keys[i]);
    }
  }
  if (!pieces.empty()) on_pieces(std::move(pieces), missing.empty(), Reached::kNotAsked);
  if (missing.empty()) return;
  if (absl::Status status = Check(timeout, /*heed_breaker=*/true); !status.ok()) {
    pieces = FailedPieces(status, missing.size());
    for (GetOrReservePiece& piece : pieces) piece.index = indices[piece.index];
    return on_pieces(std::move(pieces), /*last=*/true, Reached::kNotAsked);
  }
  FlightBatch::Start(
      *transport_, missing, /*known_missing=*/settled, absl::Now() + timeout, options.claim_time,
      [this, timeout, indices = std::move(indices), on_pieces = std::move(on_pieces)](
          Pieces some, bool last, Reached reached) mutable {
        for (GetOrReservePiece& piece : some) piece.index = indices[piece.index];
        if (last) Account(reached, timeout);
        on_pieces(std::move(some), last, reached);
      });
}

RequestId Client::SubmitGetOrReserve(std::span<const std::string_view> keys,
                                     const ComputeOptions& options) {
  const RequestId id = impl_->NextId();
  impl_->GetOrReserve(keys, options,
                      [&queue = impl_->completions(), id](Pieces pieces, bool last, Reached) {
                        Completion completion;
                        completion.id = id;
                        completion.more = !last;
                        completion.get_or_reserve = std::move(pieces);
                        queue.Push(std::move(completion));
                      });
  return id;
}

std::vector<ComputeResult> Client::GetOrCompute(std::span<const std::string_view> keys,
                                                const ComputeFunction& compute,
                                                const ComputeOptions& options) {
  LocalTransport* const local = impl_->local();
  return ComputeMissing(
      *this,
      {.start =
           [&](FlightBatch::OnPieces on_pieces) {
             impl_->GetOrReserve(keys, options, std::move(on_pieces));
           },
       .get_own =
           [&](std::string_view key, const CallOptions& call) {
             GetResult own;
             if (local != nullptr && local->TryGet(key, LocalTransport::Copies::kOwn, &own)) {
               return own;
             }
             return Get(key, call);
           },
       .in_place = local != nullptr},
      keys, compute, {.deadline = options.deadline});
}

ComputeResult Client::GetOrCompute(std::string_view key, const ComputeFunction& compute,
                                   const ComputeOptions& options) {
  return std::move(GetOrCompute(std::span(&key, 1), compute, options).front());
}

}  // namespace infercache
