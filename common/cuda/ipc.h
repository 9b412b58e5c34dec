// Memory that somebody else in this process allocated (cudaMalloc, PyTorch, cuMemCreate), exported
// to other processes, and memory that another process exported so.
//
// CUDA has two ways. A legacy handle, 64 bytes, for cudaMalloc: it names the whole allocation,
// opens in every process of the exporter's user but one with the exporter's PID value, and lets
// whoever opens it write. And a descriptor, for memory that was made by cuMemCreate to be shared.
// Movable; not thread-safe.

#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cuda/context.h"
#include "common/cuda/driver.h"
#include "common/unique_fd.h"

namespace infercache::cuda {

// The allocation that a pointer points into, or that is mapped there.
struct AddressRange {
  DevicePointer base = 0;
  uint64_t bytes = 0;

  bool Contains(DevicePointer address, uint64_t size) const {
    return address >= base && address - base <= bytes && size <= bytes - (address - base);
  }
};

// INVALID_ARGUMENT: `pointer` is none of `device`'s. `context` is that device's.
absl::StatusOr<AddressRange> FindRange(const PrimaryContext& context, Device device,
                                       DevicePointer pointer);

struct ExportedMemory {
  IpcHandle handle = {};
  UniqueFd descriptor;  // valid: it is what to share, and there is no handle
};

// UNIMPLEMENTED, with the likely reason: the memory was not made to be shared. Other errors are the
// driver's, and may pass.
absl::StatusOr<ExportedMemory> ExportMemory(const PrimaryContext& context,
                                            const AddressRange& range);

// Of the process that exported a handle, and of the one that opens it.
struct IpcPeers {
  uint64_t exporter_pid = 0;  // as it sees itself
  // As somebody saw both. The same: nobody knows of a difference.
  uint32_t exporter_user = 0, own_user = 0;
};

// Another process's allocation, opened by its legacy handle. CUDA counts how often a process has
// opened one and gives it one address.
class IpcMapping {
 public:
  // FAILED_PRECONDITION: the exporter's PID has the same value as this process's, as both say, or
  // it is another user's. INVALID_ARGUMENT: the handle is none, or none any more, or names less
  // than `bytes`. Sets *never after an error that stays in this process whatever happens: codes do
  // not tell, since a graph that is being captured makes FAILED_PRECONDITION of its own.
  static absl::StatusOr<IpcMapping> Open(std::shared_ptr<const PrimaryContext> context,
                                         const IpcHandle& handle, uint64_t bytes,
                                         const IpcPeers& peers, bool* never);
  IpcMapping(IpcMapping&& other) noexcept;
  IpcMapping& operator=(IpcMapping&& other) noexcept;
  // REQUIRES: the GPU does nothing with it any more. May block on a GPU that hangs.
  ~IpcMapping();
  // The same, for whoever has to know: after an error (in a context that is dead) the memory stays
  // open until the process ends, and its owner must not free it. REQUIRES: not moved from.
  absl::Status Close();

  DevicePointer address() const { return address_; }

 private:
  IpcMapping(std::shared_ptr<const PrimaryContext> context, DevicePointer address)
      : context_(std::move(context)), address_(address) {}

  std::shared_ptr<const PrimaryContext> context_;  // null = moved from
  DevicePointer address_ = 0;
};

}  // namespace infercache::cuda
