// Host memory that GPUs copy to at full speed: registered with the driver once for all of them,
// since a second registration of the same memory fails.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cuda/context.h"
#include "common/mutex.h"

namespace infercache::gpu {

// Thread-safe. Calls the driver under no lock: a GPU that hangs in it keeps its own thread alone,
// and those that want the same memory while that is unregistered.
class HostRegistry : public std::enable_shared_from_this<HostRegistry> {
 public:
  // Memory is registered as long as one of its uses lives, and must be there for as long.
  // Move-only.
  class Use {
   public:
    Use(Use&& other) noexcept = default;
    Use& operator=(Use&& other) = delete;
    ~Use() {
      if (registry_ != nullptr) registry_->Remove(memory_);
    }

   private:
    friend class HostRegistry;
    Use(std::shared_ptr<HostRegistry> registry, const std::byte* memory)
        : registry_(std::move(registry)), memory_(memory) {}

    std::shared_ptr<HostRegistry> registry_;  // null = moved from
    const std::byte* memory_;
  };

  // For all contexts, in `context`, which is the thread's current one and is kept for as long. If
  // another thread is about to register the memory, this one does not wait: copies are slow until
  // it has. Whoever is the first is told if it fails. REQUIRES: uses of the same memory begin at
  // the same byte and are of one size.
  absl::StatusOr<Use> Add(std::span<std::byte> memory,
                          std::shared_ptr<const cuda::PrimaryContext> context)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    uint64_t uses = 0;
    std::shared_ptr<const cuda::PrimaryContext> context;  // null = not registered
  };

  void Remove(const std::byte* memory) ABSL_LOCKS_EXCLUDED(mu_);

  Mutex mu_;
  CondVar changed_;
  std::map<const std::byte*, Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::set<const std::byte*> leaving_ ABSL_GUARDED_BY(mu_);  // being unregistered
};

}  // namespace infercache::gpu
