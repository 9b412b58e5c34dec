// The daemon's store: a set of namespaces that share one capacity.
//
// Store and Namespace are thread-safe. No call blocks on a reader or on another client; no call
// touches value bytes under a lock. Failures are absl::Status with the codes named at each call; a
// miss is not a failure.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/store/events.h"
#include "server/store/namespace.h"
#include "server/store/space.h"

namespace infercache::store {

struct StoreOptions {
  uint64_t capacity_bytes = uint64_t{1} << 30;  // upper bound of the sum of all quotas
  // Largest host arena chunk, and so the largest object. Each namespace's quota is cut into equal
  // chunks of at most this size.
  uint64_t chunk_bytes = kDefaultChunkBytes;
  uint32_t shards = 64;  // per namespace; a power of two
  PageChoice arena_pages = PageChoice::kAuto;
  bool lock_memory = false;  // mlock the arenas: never swapped out
  // For simulations that store less than there would be: the size that the policies take every
  // object to have. 0 = its own.
  uint64_t assumed_object_bytes = 0;
  // A thread that keeps the free reserve, expires and reaps. Off in tests that call Maintain().
  bool background = true;
  // What a namespace's memory has to fit into, and whether one that is being made shall not be
  // finished: asked on the thread that makes it, now and then.
  Populating populating = {};
  // Called by that thread before each round of upkeep.
  std::function<void()> on_upkeep = {};
};

class Store {
 public:
  // `clock` and `observer` (may be null) outlive the store and everything leased from it.
  Store(const StoreOptions& options, const Clock& clock, Observer* observer = nullptr);
  // Namespaces live on while leases hold them.
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Maps and populates the arena before it returns.
  // Errors: INVALID_ARGUMENT (name, zero or oversized field, unknown policy), ALREADY_EXISTS,
  // RESOURCE_EXHAUSTED (capacity or memory), UNAVAILABLE (stopped meanwhile).
  absl::StatusOr<std::shared_ptr<Namespace>> CreateNamespace(NamespaceSpec spec);
  // Gives `ns` a tier in the memory of the GPU `device`. `chunks` are as `arena` says, whose bytes
  // are the GPU's and not part of the capacity. If there is a `low_room`, somebody moves its
  // objects down, and is told by it when there is less room than there should be: from any thread,
  // and often. It returns whether he is at work; else upkeep makes room as in any namespace.
  // INVALID_ARGUMENT: too many chunks. RESOURCE_EXHAUSTED: no host memory for the index.
  absl::Status AddDeviceTier(Namespace& ns, const std::string& device, const ArenaGeometry& arena,
                             std::unique_ptr<Chunks> chunks, std::function<bool()> low_room = {});
  // NOT_FOUND if there is none.
  absl::StatusOr<std::shared_ptr<Namespace>> FindNamespace(std::string_view name) const;
  // Closes it: its objects are gone, further calls on it find nothing and refuse puts. Its quota is
  // free again once the last lease on it is gone. NOT_FOUND if there is none.
  absl::Status DeleteNamespace(std::string_view name);
  // Sorted by name.
  std::vector<std::shared_ptr<Namespace>> Namespaces() const;

  const StoreOptions& options() const { return options_; }
  // What the quotas of all namespaces, closed ones with leases included, add up to, as they were
  // asked for: each is mapped in whole pages.
  uint64_t committed_bytes() const;

  // One round of upkeep for every namespace; see Namespace::Maintain. For tests and for callers
  // that set background = false.
  void Maintain();

 private:
  class MaintenanceThread;

  struct Parts;
  absl::StatusOr<std::shared_ptr<Namespace>> Make(const NamespaceSpec& spec, Parts parts) const;

  // Constant after construction.
  const StoreOptions options_;
  const Clock& clock_;
  Observer* const observer_;

  mutable Mutex mu_;
  std::map<std::string, std::shared_ptr<Namespace>, std::less<>> namespaces_ ABSL_GUARDED_BY(mu_);
  // Shared with every namespace, which gives its quota back when it dies.
  const std::shared_ptr<std::atomic<uint64_t>> committed_bytes_;
  // Null without background. Namespaces that outlive the store hold it weakly.
  std::shared_ptr<MaintenanceThread> maintenance_;
};

}  // namespace infercache::store
