// Memory as cudaMalloc gives it. Any failure ends the test program. Not thread-safe.

#pragma once

#include <cstdint>
#include <memory>

#include "common/cuda/context.h"
#include "tests/or_die.h"

namespace infercache::gpu {

class LegacyBuffer {
 public:
  static constexpr uint64_t kBytes = uint64_t{2} << 20;

  explicit LegacyBuffer(std::shared_ptr<const cuda::PrimaryContext> context)
      : context_(std::move(context)) {
    const cuda::CurrentContext current(*context_);
    OrDie(current.status());
    const cuda::Driver& driver = context_->driver();
    OrDie(driver.Check(driver.api().mem_alloc(&address_, kBytes), "cuMemAlloc"));
  }
  ~LegacyBuffer() {
    const cuda::CurrentContext current(*context_);
    const cuda::Driver& driver = context_->driver();
    OrDie(driver.Check(driver.api().mem_free(address_), "cuMemFree"));
  }
  LegacyBuffer(const LegacyBuffer&) = delete;
  LegacyBuffer& operator=(const LegacyBuffer&) = delete;

  cuda::DevicePointer address() const { return address_; }

 private:
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  cuda::DevicePointer address_ = 0;
};

}  // namespace infercache::gpu
