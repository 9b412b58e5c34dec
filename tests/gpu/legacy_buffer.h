// Memory as cudaMalloc gives it, for tests: the product allocates none. Any failure ends the test
// program. Not thread-safe.

#pragma once

#include <dlfcn.h>

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
    const auto allocate = EntryPoint<cuda::Result (*)(cuda::DevicePointer*, size_t)>("cuMemAlloc");
    OrDie(context_->driver().Check(allocate(&address_, kBytes), "cuMemAlloc"));
  }
  ~LegacyBuffer() {
    const cuda::CurrentContext current(*context_);
    const auto release = EntryPoint<cuda::Result (*)(cuda::DevicePointer)>("cuMemFree");
    OrDie(context_->driver().Check(release(address_), "cuMemFree"));
  }
  LegacyBuffer(const LegacyBuffer&) = delete;
  LegacyBuffer& operator=(const LegacyBuffer&) = delete;

  cuda::DevicePointer address() const { return address_; }

 private:
  template <class Function>
  static Function EntryPoint(const char* symbol) {
    using Find = cuda::Result (*)(const char*, void**, int, uint64_t, int*);
    void* const library = dlopen(cuda::Driver::kLibrary, RTLD_NOW | RTLD_LOCAL);
    const auto find = reinterpret_cast<Find>(dlsym(library, "cuGetProcAddress_v2"));
    void* function = nullptr;
    if (find == nullptr || find(symbol, &function, 3020, 0, nullptr) != cuda::kSuccess) {
      OrDie(absl::UnimplementedError(symbol));
    }
    return reinterpret_cast<Function>(function);
  }

  const std::shared_ptr<const cuda::PrimaryContext> context_;
  cuda::DevicePointer address_ = 0;
};

}  // namespace infercache::gpu
