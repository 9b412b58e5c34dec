// Whether two processes of this machine can share a GPU's memory, found out by doing it: this one
// writes 4 KiB, and a child reads them. Each makes a context for it.

#pragma once

#include <memory>

#include "absl/status/status.h"
#include "common/cuda/driver.h"

namespace infercache::cli {

// RESOURCE_EXHAUSTED: the GPU is too full for it, which says nothing.
struct GpuSelfTest {
  absl::Status descriptors;  // how a tier is shared, and lent memory of cuMemCreate
  absl::Status handles;      // how lent memory of cudaMalloc is, and so most of PyTorch's
};

GpuSelfTest TestGpu(const std::shared_ptr<const cuda::Driver>& driver,
                    const cuda::DeviceInfo& device);

// This program, as the child: infercachectl kGpuSelfTestChild MEMORY UUID BYTES, where MEMORY is a
// descriptor's number or a handle in hexadecimal. Returns its exit code, and says on standard
// output what is wrong.
inline constexpr char kGpuSelfTestChild[] = "--gpu-self-test";
int RunGpuSelfTestChild(const char* memory, const char* uuid, const char* bytes);

}  // namespace infercache::cli
