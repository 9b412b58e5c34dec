// CUDA's driver library, found when it is needed: nothing links it, and one binary runs with and
// without it.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cuda/driver_types.h"

namespace infercache::cuda {

// A loaded and initialized driver. Immutable, thread-safe. Stays loaded for as long as the process
// lives: drivers do not survive being unloaded, and loading again is cheap. Does not survive a
// fork: a child gets CUDA_ERROR_NOT_INITIALIZED.
class Driver {
 public:
  static constexpr char kLibrary[] = "libcuda.so.1";

  // UNIMPLEMENTED, with the reason: there is no such library, it is older than CUDA 11.4, it finds
  // no device, or does not fit the kernel's part. UNAVAILABLE: the machine is not ready yet, as one
  // whose GPUs are connected by switches until its fabric manager has set these up; to be asked
  // again.
  static absl::StatusOr<std::shared_ptr<const Driver>> Load(const char* library = kLibrary);

  const Api& api() const { return api_; }
  int version() const { return version_; }  // 13000 = CUDA 13.0

  // Ok if `result` is; else what CUDA calls it, and `call`: RESOURCE_EXHAUSTED (out of memory),
  // UNIMPLEMENTED (not on this machine), INVALID_ARGUMENT (value or handle), UNAVAILABLE (not yet),
  // FAILED_PRECONDITION (a graph is being captured), INTERNAL.
  absl::Status Check(Result result, std::string_view call) const;

 private:
  Driver() = default;

  Api api_ = {};
  int version_ = 0;
};

// Who captures a graph, as PyTorch and vLLM do, mostly does so in CUDA's global mode: until it is
// done, what cannot be in a graph (allocations, mappings, queries) fails in every thread of the
// process, and makes the capture fail as well. The calling thread has no part in that for a scope.
class OutsideOfCaptures {
 public:
  explicit OutsideOfCaptures(const Driver& driver);
  ~OutsideOfCaptures();
  OutsideOfCaptures(const OutsideOfCaptures&) = delete;
  OutsideOfCaptures& operator=(const OutsideOfCaptures&) = delete;

 private:
  const Driver& driver_;
  int mode_;  // the thread's, before
};

struct DeviceInfo {
  Device ordinal = 0;
  std::string uuid;  // GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx
  std::string name;
  uint64_t total_bytes = 0;
  bool shareable = false;  // its memory can be exported as a descriptor
};

std::string FormatUuid(const Uuid& uuid);
// INVALID_ARGUMENT: not of that form, with GPU- or MIG- before it.
absl::StatusOr<Uuid> ParseUuid(std::string_view text);

absl::StatusOr<std::vector<DeviceInfo>> ListDevices(const Driver& driver);
// `name`: a UUID, or "auto" for the only device there is. INVALID_ARGUMENT; NOT_FOUND names the
// devices that there are.
absl::StatusOr<DeviceInfo> FindDevice(const Driver& driver, std::string_view name);

}  // namespace infercache::cuda
