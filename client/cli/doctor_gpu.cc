#include "client/cli/doctor_gpu.h"

#include "client/cli/gpu_self_test.h"
#include "common/cuda/driver.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

Finding GpuFinding(const cuda::DeviceInfo& device, const GpuSelfTest& tested) {
  const std::string which =
      fmt::format("{} ({}, {} MiB)", device.uuid, device.name, device.total_bytes >> 20);
  if (tested.descriptors.ok() && tested.handles.ok()) {
    return {"gpu", Level::kOk,
            fmt::format("{}: a process reads what another one wrote, by descriptor and by legacy "
                        "handle",
                        which)};
  }
  const absl::Status& first = tested.descriptors.ok() ? tested.handles : tested.descriptors;
  const std::string why(first.message());
  // A tier is taken from the GPU once, while this asks for memory at a time when it may be in use.
  if (absl::IsResourceExhausted(first)) {
    return {"gpu", Level::kWarn,
            fmt::format("{}: could not be tested, its memory is full: {}", which, why),
            "run doctor again when less of the GPU is in use"};
  }
  if (absl::IsDeadlineExceeded(first)) {
    return {"gpu", Level::kWarn, fmt::format("{}: could not be tested: {}", which, why),
            "does it hang? see the kernel's log and the driver's own tools, such as nvidia-smi"};
  }
  if (tested.handles.ok()) {
    return {
        "gpu", Level::kWarn,
        fmt::format("{}: memory cannot be shared by descriptor, so that it can have no tier: {}",
                    which, why),
        "workers on this GPU copy from host memory; docs/gpu.md"};
  }
  if (tested.descriptors.ok()) {
    return {"gpu", Level::kWarn,
            fmt::format("{}: memory of cudaMalloc cannot be shared (tiers can): {}", which, why),
            "lend with a copy in host memory, or memory of cuMemCreate; docs/gpu.md"};
  }
  return {"gpu", Level::kWarn,
          fmt::format("{}: memory cannot be shared: {}; by legacy handle: {}", which, why,
                      std::string(tested.handles.message())),
          "workers on this GPU copy from host memory; docs/gpu.md"};
}

}  // namespace

std::vector<Gpu> CheckGpus(absl::Duration patience, std::vector<Finding>* findings) {
  const auto driver = cuda::Driver::Load();
  if (!driver.ok()) {
    findings->push_back(
        {"gpu_driver", Level::kOk,
         fmt::format("{}; GPUs are not used", std::string(driver.status().message()))});
    return {};
  }
  const auto devices = cuda::ListDevices(**driver);
  if (!devices.ok()) {
    findings->push_back({"gpu_driver", Level::kWarn, std::string(devices.status().message()),
                         "see the driver's own tools, such as nvidia-smi"});
    return {};
  }
  findings->push_back({"gpu_driver", Level::kOk,
                       fmt::format("CUDA {}.{}, {} GPUs", (*driver)->version() / 1000,
                                   (*driver)->version() % 1000 / 10, devices->size())});
  std::vector<Gpu> gpus;
  for (const cuda::DeviceInfo& device : *devices) {
    findings->push_back(GpuFinding(device, TestGpu(device, patience)));
    gpus.push_back({device.uuid});
  }
  return gpus;
}

Finding GpuTierFinding(const std::string& device, const std::string& namespace_name,
                       const absl::StatusOr<v1::Welcome>& welcome) {
  if (welcome.ok() && welcome->device() == device) {
    return {"gpu_tier", Level::kOk,
            fmt::format("namespace {} has {} MiB on {}", namespace_name,
                        (welcome->chunk_count() * welcome->chunk_bytes()) >> 20, device)};
  }
  if (welcome.ok()) {
    return {"gpu_tier", Level::kWarn, "the daemon knows nothing of GPUs",
            "use a daemon of this program's version"};
  }
  const std::string said(welcome.status().message());
  if (absl::IsNotFound(welcome.status())) return {"gpu_tier", Level::kOk, said};
  const bool rights = absl::IsPermissionDenied(welcome.status());
  return {"gpu_tier", Level::kWarn, said,
          rights ? fmt::format("add this user to local_writers of {}", namespace_name)
                 : "the daemon's log says it too: device tier is off"};
}

}  // namespace infercache::cli
