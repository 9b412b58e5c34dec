#include "client/src/mapped_device_chunk.h"

#include "common/status_macros.h"

namespace infercache {
namespace {

// Whatever is destroyed last, its thread is: on itself, and nobody waits for it.
struct Unmapped final : DeviceThread::Kept {
  Unmapped(std::shared_ptr<DeviceThread> t, cuda::Mapping r, cuda::Mapping w)
      : thread(std::move(t)), readable(std::move(r)), writable(std::move(w)) {}
  std::shared_ptr<DeviceThread> thread;
  cuda::Mapping readable, writable;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceChunk>> MappedDeviceChunk::Map(
    const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device, const UniqueFd& chunk,
    uint64_t chunk_bytes, std::shared_ptr<DeviceThread> thread) {
  ASSIGN_OR_RETURN(const cuda::Allocation imported,
                   cuda::Allocation::Import(driver, chunk, chunk_bytes));
  ASSIGN_OR_RETURN(cuda::Mapping readable, cuda::Mapping::Map(imported, device, Access::kRead));
  ASSIGN_OR_RETURN(cuda::Mapping writable,
                   cuda::Mapping::Map(imported, device, Access::kReadWrite));
  return std::unique_ptr<DeviceChunk>(
      new MappedDeviceChunk(std::move(readable), std::move(writable), std::move(thread)));
}

MappedDeviceChunk::~MappedDeviceChunk() {
  DeviceThread& thread = *thread_;
  auto unmapped =
      std::make_unique<Unmapped>(std::move(thread_), std::move(readable_), std::move(writable_));
  if (thread.inherited()) {
    // The parent's mapping and its thread: neither is here.
    (void)unmapped.release();
  } else {
    thread.Destroy(std::move(unmapped));
  }
}

}  // namespace infercache
