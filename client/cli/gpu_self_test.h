// Whether two processes of this machine can share a GPU's memory, found out by doing it: a child
// writes 4 KiB, and a child of that one reads them. Each makes a context for it, and this process
// none: a GPU that hangs keeps whoever waits for it, in the driver, for as long as it does.

#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/cuda/driver.h"

namespace infercache::cli {

// RESOURCE_EXHAUSTED: the GPU is too full for it, which says nothing. DEADLINE_EXCEEDED: it came to
// no end, and the children are killed.
struct GpuSelfTest {
  absl::Status descriptors;  // how a tier is shared, and lent memory of cuMemCreate
  absl::Status handles;      // how lent memory of cudaMalloc is, and so most of PyTorch's
};

GpuSelfTest TestGpu(const cuda::DeviceInfo& device, absl::Duration patience);

// This program, as a child: infercachectl kGpuSelfTestChild ARGUMENTS.
//   UUID                 writes, has another child read, and says on standard output what came of
//                        either test, a line each
//   MEMORY UUID BYTES    reads, where MEMORY is a descriptor's number or a handle in hexadecimal,
//                        and says what is wrong
// Returns its exit code.
inline constexpr char kGpuSelfTestChild[] = "--gpu-self-test";
int RunGpuSelfTestChild(const std::vector<std::string>& arguments);

}  // namespace infercache::cli
