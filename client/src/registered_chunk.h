// A chunk of host memory that is registered with CUDA's driver, so that a GPU copies from it at the
// speed of the bus and nobody waits within the driver.

#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "client/src/arena_chunk.h"
#include "client/src/device_thread.h"

namespace infercache {

class RegisteredHostChunk final : public RegisteredChunk {
 public:
  // For every GPU of this process. `chunk` may be mapped for reading only; not all GPUs know that.
  // Errors are the driver's.
  static absl::StatusOr<std::unique_ptr<RegisteredChunk>> Register(
      const MappedSegment& chunk, cuda::Device device, std::shared_ptr<DeviceThread> thread);
  // On a thread of the device's, since the driver waits for copies that are under way. What it does
  // not let go of stays mapped until the process ends.
  void Release(MappedSegment chunk) override;

 private:
  explicit RegisteredHostChunk(std::shared_ptr<DeviceThread> thread) : thread_(std::move(thread)) {}

  std::shared_ptr<DeviceThread> thread_;
};

}  // namespace infercache
