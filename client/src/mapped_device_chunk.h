// A session's chunk in a GPU, mapped into this process.

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
  // Imports and maps it. Errors are the driver's.
  static absl::StatusOr<std::unique_ptr<DeviceChunk>> Map(
      const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device, const UniqueFd& chunk,
      uint64_t chunk_bytes, cuda::Mapping::Access access, std::shared_ptr<DeviceThread> thread);
  // Unmapped on the device's thread, since a GPU that hangs would keep whoever does it.
  ~MappedDeviceChunk() override;

  cuda::DevicePointer address() const { return mapping_.address(); }

 private:
  MappedDeviceChunk(cuda::Mapping mapping, std::shared_ptr<DeviceThread> thread)
      : mapping_(std::move(mapping)), thread_(std::move(thread)) {}

  cuda::Mapping mapping_;
  std::shared_ptr<DeviceThread> thread_;
};

}  // namespace infercache
