// A driver from before CUDA 12, which has cuGetProcAddress and no second version of it: the fake
// one's entry points, up to OLD_DRIVER_VERSION.

#include <dlfcn.h>

#include <cstdint>

extern "C" __attribute__((visibility("default"))) int cuGetProcAddress(const char* symbol,
                                                                       void** function, int version,
                                                                       uint64_t flags) {
  constexpr int kNotFound = 500;
  using Find = int (*)(const char*, void**, int, uint64_t, int*);
  static const auto find = reinterpret_cast<Find>(
      dlsym(dlopen(FAKE_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL), "cuGetProcAddress_v2"));
  *function = nullptr;
  return version > OLD_DRIVER_VERSION ? kNotFound : find(symbol, function, version, flags, nullptr);
}
