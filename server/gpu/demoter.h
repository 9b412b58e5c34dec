// Moves objects of tiers in one GPU down to host memory, before puts need their room, on a thread
// of its own with a context and a stream of its own.
//
// A GPU that hangs keeps this thread and what it has in hand (a batch), and nobody else: puts evict
// instead of waiting, NamespaceStats::demoting_ms tells, and who ends the daemon leaves the thread
// behind. What a GPU that fails had in hand stays taken as long as the Demoter lives: nobody says
// that all of the GPU's engines have stopped.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cuda/driver.h"
#include "common/cuda/memory.h"
#include "server/gpu/host_registry.h"
#include "server/store/namespace.h"

namespace infercache::gpu {

// Thread-safe.
class Demoter {
 public:
  struct Options {
    // What is in hand at once.
    uint64_t batch_bytes = uint64_t{64} << 20;
    size_t batch_objects = 256;
    // A thread that is at one thing for longer counts as hanging: others make room then, and the
    // end does not wait for it.
    std::chrono::milliseconds patience{2000};
    // Told once, on the thread, if the GPU cannot do it or no longer: tiers go on without. Neither
    // of these is told once the Demoter ends.
    std::function<void(const absl::Status& why)> switched_off = {};
    // Told of host memory that could not be registered: copies from the GPU are slow then.
    std::function<void(const absl::Status& why)> slow = {};
  };
  struct Tier {
    std::shared_ptr<store::Namespace> host;
    std::shared_ptr<store::Namespace> objects;  // the tier of it, made with low_room()
    std::shared_ptr<const std::vector<cuda::Allocation>> memory;  // of all chunks
  };

  // `registry` is that of all GPUs. RESOURCE_EXHAUSTED: out of threads.
  static absl::StatusOr<std::unique_ptr<Demoter>> Start(std::shared_ptr<const cuda::Driver> driver,
                                                        cuda::Device device,
                                                        std::shared_ptr<HostRegistry> registry,
                                                        Options options);
  ~Demoter();
  Demoter(const Demoter&) = delete;
  Demoter& operator=(const Demoter&) = delete;

  // For Store::AddDeviceTier; may outlive this.
  std::function<bool()> low_room() const;
  void Add(Tier tier);

 private:
  struct Prepared;
  struct State;
  class Worker;

  explicit Demoter(std::shared_ptr<State> state) : state_(std::move(state)) {}

  const std::shared_ptr<State> state_;  // shared with the thread, which may outlive this
  std::thread thread_;
};

}  // namespace infercache::gpu
