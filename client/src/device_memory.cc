#include "client/src/device_memory.h"

#include "common/status_macros.h"

namespace infercache {
namespace {

// Whatever is destroyed last, its thread is: on itself, and nobody waits for it.
struct Unmapped final : DeviceThread::Kept {
  Unmapped(std::shared_ptr<DeviceThread> t, std::vector<cuda::Mapping> c)
      : thread(std::move(t)), chunks(std::move(c)) {}
  std::shared_ptr<DeviceThread> thread;
  std::vector<cuda::Mapping> chunks;
};

}  // namespace

absl::StatusOr<std::shared_ptr<DeviceMemory>> MappedDeviceMemory::Map(
    const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device,
    const std::vector<UniqueFd>& chunks, uint64_t chunk_bytes, cuda::Mapping::Access access,
    std::shared_ptr<DeviceThread> thread) {
  std::vector<cuda::Mapping> mapped;
  for (const UniqueFd& fd : chunks) {
    ASSIGN_OR_RETURN(const cuda::Allocation chunk,
                     cuda::Allocation::Import(driver, fd, chunk_bytes));
    ASSIGN_OR_RETURN(cuda::Mapping mapping, cuda::Mapping::Map(chunk, device, access));
    mapped.push_back(std::move(mapping));
  }
  return std::shared_ptr<DeviceMemory>(
      new MappedDeviceMemory(std::move(mapped), std::move(thread)));
}

MappedDeviceMemory::~MappedDeviceMemory() {
  DeviceThread& thread = *thread_;
  auto unmapped = std::make_unique<Unmapped>(std::move(thread_), std::move(chunks_));
  if (thread.inherited()) {
    // The parent's mappings and its thread: neither is here.
    (void)unmapped.release();
  } else {
    thread.Destroy(std::move(unmapped));
  }
}

}  // namespace infercache
