#include "client/src/registered_chunk.h"

#include "common/status_macros.h"

namespace infercache {
namespace {

struct StillRegistered final : DeviceThread::Kept {
  explicit StillRegistered(MappedSegment c) : chunk(std::move(c)) {}
  const MappedSegment chunk;
};

struct Unregistered final : DeviceThread::Kept {
  Unregistered(std::shared_ptr<DeviceThread> t, MappedSegment c)
      : thread(std::move(t)), chunk(std::move(c)) {}
  // Before it is unmapped: what is mapped there next would be taken for it. So if that fails (in a
  // context that is dead, while those of other GPUs live) it stays mapped.
  ~Unregistered() override {
    const cuda::CurrentContext current(thread->context());
    const cuda::Api& api = thread->context().driver().api();
    if (api.mem_host_unregister(chunk.bytes().data()) == cuda::kSuccess) return;
    DeviceThread::KeepForGood(std::make_unique<StillRegistered>(std::move(chunk)));
  }

  // Whatever is destroyed last, its thread is: on itself, and nobody waits for it.
  const std::shared_ptr<DeviceThread> thread;
  MappedSegment chunk;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RegisteredChunk>> RegisteredHostChunk::Register(
    const MappedSegment& chunk, cuda::Device device, std::shared_ptr<DeviceThread> thread) {
  const cuda::CurrentContext current(thread->context());
  RETURN_IF_ERROR(current.status());
  const cuda::Driver& driver = thread->context().driver();
  int read_only = 0;
  RETURN_IF_ERROR(driver.Check(
      driver.api().device_get_attribute(&read_only, cuda::kAttributeReadOnlyHostRegister, device),
      "cuDeviceGetAttribute"));
  const unsigned flags =
      cuda::kHostRegisterPortable | (read_only != 0 ? cuda::kHostRegisterReadOnly : 0);
  RETURN_IF_ERROR(driver.Check(
      driver.api().mem_host_register(chunk.bytes().data(), chunk.bytes().size(), flags),
      "cuMemHostRegister"));
  return std::unique_ptr<RegisteredChunk>(new RegisteredHostChunk(std::move(thread)));
}

void RegisteredHostChunk::Release(MappedSegment chunk) {
  DeviceThread& thread = *thread_;
  auto gone = std::make_unique<Unregistered>(std::move(thread_), std::move(chunk));
  if (thread.inherited()) {
    // The parent's mapping and its thread: neither is here.
    (void)gone.release();
  } else {
    thread.Destroy(std::move(gone));
  }
}

}  // namespace infercache
