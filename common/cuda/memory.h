// Memory of a GPU that processes share: an allocation, whose descriptor travels over a Unix socket,
// and a mapping of it into this process's device addresses.
//
// Device addresses mean nothing to the CPU: touching one is a fault. Nothing here needs a context.
// Movable; not thread-safe, but the const methods are.

#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cuda/driver.h"
#include "common/unique_fd.h"

namespace infercache::cuda {

// One reference to physical memory, which lives until the last reference, mapping and descriptor in
// any process is gone.
class Allocation {
 public:
  // What sizes have to be multiples of.
  static absl::StatusOr<uint64_t> Granularity(const Driver& driver, Device device);
  // REQUIRES: `bytes` is a multiple of the granularity. RESOURCE_EXHAUSTED: the GPU has too little;
  // UNIMPLEMENTED: its memory cannot be exported.
  static absl::StatusOr<Allocation> Create(std::shared_ptr<const Driver> driver, Device device,
                                           uint64_t bytes);
  // What Export made, here or elsewhere; `fd` may be closed afterwards. `bytes` as the sender says;
  // if that is wrong, Mapping::Map fails.
  static absl::StatusOr<Allocation> Import(std::shared_ptr<const Driver> driver, const UniqueFd& fd,
                                           uint64_t bytes);

  Allocation(Allocation&& other) noexcept;
  Allocation& operator=(Allocation&& other) noexcept;
  ~Allocation();

  // A descriptor that lets whoever has it read and write.
  absl::StatusOr<UniqueFd> Export() const;
  uint64_t bytes() const { return bytes_; }

 private:
  friend class Mapping;
  Allocation(std::shared_ptr<const Driver> driver, AllocationHandle handle, uint64_t bytes);

  std::shared_ptr<const Driver> driver_;  // null = moved from
  AllocationHandle handle_ = 0;
  uint64_t bytes_ = 0;
};

// All of an allocation at one device address. Keeps the memory, the Allocation may go.
class Mapping {
 public:
  // kRead guards against accidents: a write kills the writer's context.
  enum class Access { kRead, kReadWrite };

  static absl::StatusOr<Mapping> Map(const Allocation& allocation, Device device, Access access);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  // REQUIRES: the GPU does nothing with it any more. May block on a GPU that hangs.
  ~Mapping();
  // The same, for whoever has to know: after an error the memory stays mapped until the process
  // ends. REQUIRES: not moved from.
  absl::Status Close();

  DevicePointer address() const { return address_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Mapping(std::shared_ptr<const Driver> driver, DevicePointer address, uint64_t bytes);

  std::shared_ptr<const Driver> driver_;  // null = moved from
  DevicePointer address_ = 0;
  uint64_t bytes_ = 0;
  bool mapped_ = false;
};

}  // namespace infercache::cuda
