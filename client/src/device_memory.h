// A session's chunks in a GPU, mapped into this process.

#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/src/device_thread.h"
#include "client/src/local_session.h"
#include "common/cuda/memory.h"

namespace infercache {

class MappedDeviceMemory final : public DeviceMemory {
 public:
  // Imports and maps them all. Errors are the driver's.
  static absl::StatusOr<std::shared_ptr<DeviceMemory>> Map(
      const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device,
      const std::vector<UniqueFd>& chunks, uint64_t chunk_bytes, cuda::Mapping::Access access,
      std::shared_ptr<DeviceThread> thread);
  // Unmapped on the device's thread, since a GPU that hangs would keep whoever does it.
  ~MappedDeviceMemory() override;

  // REQUIRES: a place that the session contains.
  cuda::DevicePointer Address(const LocalPlace& place) const {
    return chunks_[place.chunk].address() + place.offset;
  }
  size_t chunk_count() const { return chunks_.size(); }

 private:
  MappedDeviceMemory(std::vector<cuda::Mapping> chunks, std::shared_ptr<DeviceThread> thread)
      : chunks_(std::move(chunks)), thread_(std::move(thread)) {}

  std::vector<cuda::Mapping> chunks_;
  std::shared_ptr<DeviceThread> thread_;
};

}  // namespace infercache
