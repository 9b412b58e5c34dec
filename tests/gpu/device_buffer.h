// A GPU's memory as a test has it: bytes go in and out through the driver. Any failure ends the
// test program. Not thread-safe.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/cuda/context.h"
#include "common/cuda/memory.h"
#include "tests/or_die.h"

namespace infercache::gpu {

class DeviceBuffer {
 public:
  static constexpr uint64_t kBytes = uint64_t{2} << 20;

  // REQUIRES: `bytes` is a multiple of kBytes.
  DeviceBuffer(const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device,
               uint64_t bytes = kBytes)
      : context_(OrDie(cuda::PrimaryContext::Retain(driver, device))),
        mapping_(OrDie(cuda::Mapping::Map(OrDie(cuda::Allocation::Create(driver, device, bytes)),
                                          device, cuda::Mapping::Access::kReadWrite))) {}

  cuda::DevicePointer address() const { return mapping_.address(); }
  void Write(std::string_view bytes) { WriteTo(address(), bytes); }
  std::string Read(uint64_t size) { return ReadFrom(address(), size); }
  void WriteTo(cuda::DevicePointer to, std::string_view bytes) {
    Do([&](const cuda::Api& api) {
      return api.memcpy_htod_async(to, bytes.data(), bytes.size(), nullptr);
    });
    Wait();
  }
  std::string ReadFrom(cuda::DevicePointer from, uint64_t size) {
    std::string bytes(size, '\0');
    Do([&](const cuda::Api& api) {
      return api.memcpy_dtoh_async(bytes.data(), from, size, nullptr);
    });
    Wait();
    return bytes;
  }
  // Of the buffer's first bytes, without waiting.
  void CopyTo(cuda::DevicePointer to, uint64_t size) {
    Do([&](const cuda::Api& api) { return api.memcpy_dtod_async(to, address(), size, nullptr); });
  }
  // For all that was given to the GPU's default stream.
  void Wait() {
    Do([](const cuda::Api& api) { return api.stream_synchronize(nullptr); });
  }

 private:
  template <class F>
  void Do(F f) {
    const cuda::CurrentContext current(*context_);
    OrDie(current.status());
    OrDie(context_->driver().Check(f(context_->driver().api()), "a test's copy"));
  }

  const std::shared_ptr<const cuda::PrimaryContext> context_;
  const cuda::Mapping mapping_;
};

}  // namespace infercache::gpu
