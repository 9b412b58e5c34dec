// Gives namespaces their tiers in the memory of GPUs when the daemon starts, and moves objects of
// theirs down if it is to. Unless it does, no CUDA context is made: the daemon only allocates and
// hands out.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/cuda/driver.h"
#include "server/gpu/demoter.h"
#include "server/gpu/host_registry.h"
#include "server/store/store.h"

namespace infercache::gpu {

struct TierRequest {
  std::shared_ptr<store::Namespace> ns;
  std::string device;  // a UUID, or "auto" for the only GPU there is
  uint64_t bytes = 0;  // rounded up to what the GPU allocates
};

struct TierOptions {
  // Of the chunks, and so the largest object.
  uint64_t chunk_bytes = store::kDefaultChunkBytes;
  // How long a GPU that is full is asked again: the workers of a daemon that was here before give
  // its memory back when they notice that it is gone. As long, for all tiers together, a machine
  // that boots and whose GPUs are not ready yet.
  absl::Duration patience = absl::Seconds(10);
  // Waits for a moment; false: no longer worth it. Null = a moment of 100 ms.
  std::function<bool(absl::Duration)> wait = nullptr;
  // A driver that is at one thing for longer (to begin, to make all chunks of a tier) counts as
  // hanging. To begin takes it seconds where no other process has it.
  absl::Duration longest_call = absl::Seconds(15);
  // Whether it is no longer worth it, asked while a call lasts. Null = it is.
  std::function<bool()> stopping = nullptr;
  const char* library = cuda::Driver::kLibrary;
  // Objects that are worth least move down to host memory. Costs a CUDA context for each GPU.
  bool demote = false;
  Demoter::Options demotion = {};
};

struct TierResult {
  std::string device;   // its UUID, or what was asked for if there is no such GPU
  std::string name;     // of the GPU
  uint64_t bytes = 0;   // of the tier
  absl::Status status;  // why it is off
};

// Makes one tier and says what came of it; a tier that cannot be had is off, and its namespace says
// why: UNIMPLEMENTED (no driver, no such GPU, or it cannot export memory), UNAVAILABLE (the GPUs
// were not ready in time), RESOURCE_EXHAUSTED (too little memory), INVALID_ARGUMENT (too many
// chunks), ALREADY_EXISTS (a second one on one GPU), DEADLINE_EXCEEDED (the driver hangs: it is
// asked for nothing any more, for other GPUs neither), CANCELLED (stopping). The driver is called
// on threads, of which one that hangs is left behind: what it still makes is given back. What it
// made stays when it goes, but nothing moves down any more. Not thread-safe.
class DeviceTiers {
 public:
  explicit DeviceTiers(TierOptions options) : options_(std::move(options)) {}

  TierResult Add(store::Store& store, const TierRequest& request);
  // Of the driver: why there is none. OK before the first Add.
  const absl::Status& driver_status() const { return driver_status_; }

 private:
  absl::Status LoadDriver();
  // What `call` answers, a StatusOr, if it does so in time. `call` keeps all that it needs.
  template <class Call>
  auto Ask(absl::string_view what, Call call) -> decltype(call());
  absl::Status TryToAdd(store::Store& store, const TierRequest& request, TierResult* result);
  // The GPU's, which is started if there is none. Null = nothing is to move down.
  absl::StatusOr<Demoter*> DemoterOf(const cuda::DeviceInfo& device);

  const TierOptions options_;
  std::shared_ptr<const cuda::Driver> driver_;
  absl::Status driver_status_;
  std::optional<absl::Time> driver_deadline_;  // to be ready; set by the first Add
  absl::Status hangs_;                         // once a call has taken too long
  const std::shared_ptr<HostRegistry> registry_ = std::make_shared<HostRegistry>();
  std::map<std::string, std::unique_ptr<Demoter>> demoters_;  // by the GPU's UUID
};

}  // namespace infercache::gpu
