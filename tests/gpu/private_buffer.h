// Memory that was not made to be shared, in allocations that lie side by side, as PyTorch's
// expandable segments may be. Any failure ends the test program. Not thread-safe.

#pragma once

#include <cstdint>
#include <memory>

#include "common/cuda/driver.h"
#include "tests/or_die.h"

namespace infercache::gpu {

class PrivateBuffer {
 public:
  static constexpr uint64_t kPieceBytes = uint64_t{2} << 20;
  static constexpr uint64_t kBytes = 2 * kPieceBytes;

  PrivateBuffer(std::shared_ptr<const cuda::Driver> driver, cuda::Device device)
      : driver_(std::move(driver)) {
    const cuda::Api& api = driver_->api();
    cuda::AllocationProperties properties = {};
    properties.type = cuda::kAllocationPinned;
    properties.location = {cuda::kLocationDevice, device};
    Do(api.mem_address_reserve(&address_, kBytes, 0, 0, 0));
    const cuda::AccessDescription access = {{cuda::kLocationDevice, device},
                                            cuda::kAccessReadWrite};
    for (uint64_t offset = 0; offset < kBytes; offset += kPieceBytes) {
      cuda::AllocationHandle& handle = handles_[offset / kPieceBytes];
      Do(api.mem_create(&handle, kPieceBytes, &properties, 0));
      Do(api.mem_map(address_ + offset, kPieceBytes, 0, handle, 0));
      Do(api.mem_set_access(address_ + offset, kPieceBytes, &access, 1));
    }
  }
  ~PrivateBuffer() {
    for (uint64_t offset = 0; offset < kBytes; offset += kPieceBytes) {
      Do(driver_->api().mem_unmap(address_ + offset, kPieceBytes));
      Do(driver_->api().mem_release(handles_[offset / kPieceBytes]));
    }
    Do(driver_->api().mem_address_free(address_, kBytes));
  }
  PrivateBuffer(const PrivateBuffer&) = delete;
  PrivateBuffer& operator=(const PrivateBuffer&) = delete;

  cuda::DevicePointer address() const { return address_; }

 private:
  void Do(cuda::Result result) const { OrDie(driver_->Check(result, "a test's private memory")); }

  const std::shared_ptr<const cuda::Driver> driver_;
  cuda::AllocationHandle handles_[kBytes / kPieceBytes] = {};
  cuda::DevicePointer address_ = 0;
};

}  // namespace infercache::gpu
