// Another worker's allocation, mapped into this process; or another client's of this process, which
// lies where it lies.

#pragma once

#include <cstdint>
#include <memory>
#include <variant>

#include "absl/status/statusor.h"
#include "client/src/device_thread.h"
#include "client/src/local_connection.h"
#include "common/cuda/ipc.h"
#include "common/cuda/memory.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

class LentMapping {
 public:
  // What a MapLent brought. Sets *never if it will never open here (see cuda::IpcMapping); other
  // errors may pass.
  static absl::StatusOr<std::shared_ptr<LentMapping>> Open(
      const v1::LentMemory& memory, const UniqueFd& descriptor, cuda::Device device,
      std::shared_ptr<DeviceThread> thread, std::shared_ptr<LocalConnection> connection,
      bool* never);
  // Unmaps on a thread of the device's, since a GPU that hangs would keep whoever does it, and
  // tells the daemon then. REQUIRES: the GPU does nothing with it any more.
  ~LentMapping();
  LentMapping(const LentMapping&) = delete;
  LentMapping& operator=(const LentMapping&) = delete;

  cuda::DevicePointer address() const;
  uint64_t bytes() const { return bytes_; }
  // This process's own memory, of which nothing is opened.
  bool is_own() const { return std::holds_alternative<OwnMemory>(mapped_); }

 private:
  struct OwnMemory {
    cuda::DevicePointer base;
    cuda::DevicePointer address() const { return base; }
    static absl::Status Close() { return absl::OkStatus(); }
  };
  // A descriptor's is for reading only, against accidents; a handle's cannot be.
  using Mapped = std::variant<cuda::IpcMapping, cuda::Mapping, OwnMemory>;
  struct Unmapped;

  LentMapping(Mapped mapped, const v1::LentMemory& memory, std::shared_ptr<DeviceThread> thread,
              std::shared_ptr<LocalConnection> connection);

  Mapped mapped_;
  const uint64_t allocation_;
  const uint64_t bytes_;
  std::shared_ptr<DeviceThread> thread_;
  std::shared_ptr<LocalConnection> connection_;
};

// Tells the daemon that what a MapLent was for is not (or no longer) mapped.
void ReturnAllocation(LocalConnection& connection, uint64_t allocation);

}  // namespace infercache
