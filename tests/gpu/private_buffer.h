// Memory that was not made to be shared, as PyTorch's expandable segments may be. Any failure ends
// the test program. Not thread-safe.

#pragma once

#include <cstdint>
#include <memory>

#include "common/cuda/driver.h"
#include "tests/or_die.h"

namespace infercache::gpu {

class PrivateBuffer {
 public:
  static constexpr uint64_t kBytes = uint64_t{2} << 20;

  PrivateBuffer(std::shared_ptr<const cuda::Driver> driver, cuda::Device device)
      : driver_(std::move(driver)) {
    const cuda::Api& api = driver_->api();
    cuda::AllocationProperties properties = {};
    properties.type = cuda::kAllocationPinned;
    properties.location = {cuda::kLocationDevice, device};
    Do(api.mem_create(&handle_, kBytes, &properties, 0));
    Do(api.mem_address_reserve(&address_, kBytes, 0, 0, 0));
    Do(api.mem_map(address_, kBytes, 0, handle_, 0));
    const cuda::AccessDescription access = {{cuda::kLocationDevice, device},
                                            cuda::kAccessReadWrite};
    Do(api.mem_set_access(address_, kBytes, &access, 1));
  }
  ~PrivateBuffer() {
    Do(driver_->api().mem_unmap(address_, kBytes));
    Do(driver_->api().mem_address_free(address_, kBytes));
    Do(driver_->api().mem_release(handle_));
  }
  PrivateBuffer(const PrivateBuffer&) = delete;
  PrivateBuffer& operator=(const PrivateBuffer&) = delete;

  cuda::DevicePointer address() const { return address_; }

 private:
  void Do(cuda::Result result) const { OrDie(driver_->Check(result, "a test's private memory")); }

  const std::shared_ptr<const cuda::Driver> driver_;
  cuda::AllocationHandle handle_ = 0;
  cuda::DevicePointer address_ = 0;
};

}  // namespace infercache::gpu
