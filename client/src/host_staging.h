// Host memory that copies between a GPU and the caller's memory go through. It is registered with
// the driver, so that they are as fast as the bus, do not wait within the driver, and a copy that
// is not done by its deadline goes on in memory of the library's and not of the caller's.

#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/device_thread.h"
#include "common/cuda/driver_types.h"
#include "common/mutex.h"

namespace infercache {

// Thread-safe.
class HostStaging : public std::enable_shared_from_this<HostStaging> {
 public:
  using Clock = DeviceThread::Clock;
  static constexpr size_t kBufferBytes = size_t{4} << 20;
  static constexpr size_t kMaxBuffers = 4;  // all made with the first copy

  // Of the GPU `uuid`.
  HostStaging(std::shared_ptr<DeviceThread> thread, std::string uuid);
  ~HostStaging();
  const std::shared_ptr<DeviceThread>& thread() const { return thread_; }
  const std::string& uuid() const { return uuid_; }

  // Of objects, to memory of the caller's.
  struct Copies {
    std::atomic<uint64_t> to_host{0}, to_host_bytes{0};
  };
  Copies& copies() { return copies_; }

  // From a GPU to host memory, and returns when it is there, or with DEADLINE_EXCEEDED: then
  // nothing more is written to `to`, and `source` is kept until the GPU has read what was begun.
  // Other streams are not waited for, unless copies under way in them have all the buffers.
  absl::Status CopyToHost(cuda::DevicePointer from, std::span<std::byte> to,
                          std::shared_ptr<const void> source, Clock::time_point deadline);
  // The other way, in the order of `stream`. Returns when the bytes have been taken from `from` and
  // their copies are under way, which waits for earlier copies, of any stream, if all buffers are
  // full. What is copied fills one after the other, and a buffer is empty again when all copies
  // through it are done. DEADLINE_EXCEEDED: some may be under way.
  absl::Status CopyToDevice(cuda::DevicePointer to, std::span<const std::byte> from,
                            cuda::Stream stream, Clock::time_point deadline);

 private:
  class Buffer;
  struct Used;
  struct Read;
  struct Abandoned;
  struct Room {
    std::shared_ptr<Used> used;
    std::span<std::byte> bytes;
  };

  // DEADLINE_EXCEEDED: all are in use. REQUIRES: the caller has none, for it may wait.
  absl::StatusOr<std::unique_ptr<Buffer>> Take(Clock::time_point deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // Null: all are in use.
  std::unique_ptr<Buffer> TakeSpare() ABSL_LOCKS_EXCLUDED(mu_);
  std::unique_ptr<Buffer> PopSpare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // For at most `bytes`, in the buffer that is being filled if there is any left, else as Take.
  absl::StatusOr<Room> TakeRoom(size_t bytes, Clock::time_point deadline) ABSL_LOCKS_EXCLUDED(mu_);
  void GiveBack(std::unique_ptr<Buffer> buffer) ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<DeviceThread> thread_;
  const std::string uuid_;
  Copies copies_;
  Mutex mu_;
  CondVar changed_;
  bool made_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::unique_ptr<Buffer>> spare_ ABSL_GUARDED_BY(mu_);
  std::weak_ptr<Used> filling_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
