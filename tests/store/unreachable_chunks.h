// A tier's memory as the store sees it, without a GPU: nobody can touch it or map it.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/store/chunks.h"
#include "server/store/store.h"

namespace infercache::store {

class UnreachableChunks final : public Chunks {
 public:
  std::span<std::byte> bytes(uint32_t) const override { return {}; }
  absl::StatusOr<UniqueFd> Open(uint32_t, bool) const override {
    return absl::UnimplementedError("no memory");
  }
};

// Gives `ns` a tier of `bytes`, whole pages, on a GPU of that name. With `low_room`, its objects
// move down.
inline absl::Status AddUnreachableTier(Store& store, Namespace& ns, const std::string& device,
                                       uint64_t bytes, std::function<bool()> low_room = {}) {
  return store.AddDeviceTier(ns, device, PlanDeviceArena(bytes, bytes, 4096),
                             std::make_unique<UnreachableChunks>(), std::move(low_room));
}

}  // namespace infercache::store
