// A session's chunk in a GPU, mapped into this process: for reading, against accidents, and where
// the client writes in place once more for that.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
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
      uint64_t chunk_bytes, bool writes, std::shared_ptr<DeviceThread> thread);
  // Unmapped on a thread of the device's, since a GPU that hangs would keep whoever does it.
  ~MappedDeviceChunk() override;

  // REQUIRES: for kReadWrite, that it was mapped for a client that writes.
  cuda::DevicePointer address(Access access) const {
    return access == Access::kRead ? readable_.address() : writable_->address();
  }

 private:
  MappedDeviceChunk(cuda::Mapping readable, std::shared_ptr<DeviceThread> thread)
      : readable_(std::move(readable)), thread_(std::move(thread)) {}

  cuda::Mapping readable_;
  std::optional<cuda::Mapping> writable_;
  std::shared_ptr<DeviceThread> thread_;
};

}  // namespace infercache
