// One chunk of a session's arena, mapped into this process.
//
// Shared by the session and by every view and reservation in the chunk, so that what they point to
// stays mapped, and pinned, whatever becomes of the client or the daemon. A chunk in which nobody
// holds anything goes with its session. Thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/mapped_segment.h"
#include "client/src/session_pins.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace infercache {

class DeviceArena;

// What a device's client has made of a chunk in a GPU's memory.
class DeviceChunk {
 public:
  virtual ~DeviceChunk() = default;
};

// What a device's client has made of a chunk of host memory, for GPUs to copy from.
class RegisteredChunk {
 public:
  virtual ~RegisteredChunk() = default;
  // Ends that, and then the mapping, somewhere else: it may take long.
  virtual void Release(MappedSegment chunk) = 0;
};

class ArenaChunk {
 public:
  // `readable`: a view cannot be written through. `writable`: the same again for whoever writes in
  // place, and what only reservations and puts go through; else empty.
  ArenaChunk(std::shared_ptr<SessionPins> pins, MappedSegment readable, MappedSegment writable)
      : pins_(std::move(pins)), readable_(std::move(readable)), writable_(std::move(writable)) {}
  // Of `arena`, which is a GPU's.
  ArenaChunk(std::shared_ptr<SessionPins> pins, std::shared_ptr<DeviceArena> arena)
      : pins_(std::move(pins)), arena_(std::move(arena)) {}
  ~ArenaChunk() {
    if (registered_ != nullptr) registered_->Release(std::move(readable_));
  }
  ArenaChunk(const ArenaChunk&) = delete;
  ArenaChunk& operator=(const ArenaChunk&) = delete;

  const std::shared_ptr<SessionPins>& pins() const { return pins_; }
  // Empty where it is no memory of the CPU.
  const MappedSegment& readable() const { return readable_; }
  const MappedSegment& writable() const { return writable_; }

  // Null where it is no memory of a GPU.
  DeviceArena* arena() const { return arena_.get(); }
  // REQUIRES: arena()->Use() was OK.
  DeviceChunk& on_device() const { return *on_device_; }

  // Whether what is readable is registered with the driver. The first call tries it; a failure is
  // for good. REQUIRES: it is memory of the CPU.
  using Register =
      absl::FunctionRef<absl::StatusOr<std::unique_ptr<RegisteredChunk>>(const MappedSegment&)>;
  bool IsRegistered(Register try_it) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class DeviceArena;

  // They go last, since they keep what is mapped from being reused. A GPU's memory is still to be
  // unmapped then, but nothing was kept for streams without a view.
  const std::shared_ptr<SessionPins> pins_;
  MappedSegment readable_;
  const MappedSegment writable_;
  const std::shared_ptr<DeviceArena> arena_;
  std::unique_ptr<DeviceChunk> on_device_;  // set once, by the arena's Use

  Mutex mu_;
  bool tried_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<RegisteredChunk> registered_;  // set once, under mu_
};

// The chunks of a session in a GPU's memory, which are imported all together. Thread-safe.
class DeviceArena {
 public:
  explicit DeviceArena(uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}
  void Add(std::weak_ptr<ArenaChunk> chunk, UniqueFd fd) ABSL_LOCKS_EXCLUDED(mu_);

  using Import = absl::FunctionRef<absl::StatusOr<std::unique_ptr<DeviceChunk>>(
      const UniqueFd& chunk, uint64_t bytes)>;
  // Imports all chunks, unless that is done. How many it was now. After a failure nothing is
  // imported, and it is tried again.
  absl::StatusOr<size_t> Use(Import import) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct NotImported {
    std::weak_ptr<ArenaChunk> chunk;
    UniqueFd fd;
  };

  const uint64_t chunk_bytes_;
  Mutex mu_;
  std::vector<NotImported> left_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
