// A session's chunk in a GPU, mapped into this process: for reading, against accidents, and once
// more for what is written in place.

#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "client/src/arena_chunk.h"
#include "client/src/device_thread.h"
#include "common/cuda/memory.h"

namespace infercache {

class MappedDeviceChunk final : public DeviceChunk {
 public:
  using Access = cuda::Mapping::Access;

  // Imports and maps it. Errors are the driver's.
  static absl::StatusOr<std::unique_ptr<DeviceChunk>> Map(
      const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device, const UniqueFd& chunk,
      uint64_t chunk_bytes, std::shared_ptr<DeviceThread> thread);
  // Unmapped on a thread of the device's, since a GPU that hangs would keep whoever does it.
  ~MappedDeviceChunk() override;

  cuda::DevicePointer address(Access access) const {
    return (access == Access::kRead ? readable_ : writable_).address();
  }

 private:
  MappedDeviceChunk(cuda::Mapping readable, cuda::Mapping writable,
                    std::shared_ptr<DeviceThread> thread)
      : readable_(std::move(readable)),
        writable_(std::move(writable)),
        thread_(std::move(thread)) {}

  cuda::Mapping readable_, writable_;
  std::shared_ptr<DeviceThread> thread_;
};

}  // namespace infercache
