// The loop of GetOrCompute: what is owed is computed and stored before anything is waited for.

#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "client/src/flight_batch.h"
#include "infercache/client.h"

namespace infercache {

// What the loop needs of a client beside its public face.
struct ComputeHooks {
  // Asks for all keys.
  std::function<void(FlightBatch::OnPieces on_pieces)> start;
  // Gets what was just stored.
  std::function<GetResult(std::string_view key, const CallOptions& call)> get_own;
  // Reservations are the daemon's memory. If not, what is computed stays this process's, and a put
  // sends it.
  bool in_place = false;
};

// In this thread. `store` is for each step of storing one object.
std::vector<ComputeResult> ComputeMissing(Client& client, const ComputeHooks& hooks,
                                          std::span<const std::string_view> keys,
                                          const ComputeFunction& compute, const CallOptions& store);

}  // namespace infercache
