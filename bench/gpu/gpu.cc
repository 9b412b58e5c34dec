#include "bench/gpu/gpu.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

cuda::DeviceInfo Find(const cuda::Driver& driver, const std::string& name) {
  if (!name.empty()) return Need(cuda::FindDevice(driver, name));
  const std::vector<cuda::DeviceInfo> all = Need(cuda::ListDevices(driver));
  if (all.empty()) Die("this process sees no GPU");
  return all[0];
}

}  // namespace

template <class F>
void Gpu::Do(const char* call, F f) const {
  const cuda::CurrentContext current(*context_);
  if (!current.status().ok()) Die(std::string(current.status().message()));
  const absl::Status done = driver_->Check(f(driver_->api()), call);
  if (!done.ok()) Die(std::string(done.message()));
}

Gpu::Gpu(const std::string& name)
    : driver_(Need(cuda::Driver::Load())),
      info_(Find(*driver_, name)),
      context_(Need(cuda::PrimaryContext::Retain(driver_, info_.ordinal))) {
  Do("cuStreamCreate",
     [&](const cuda::Api& api) { return api.stream_create(&stream_, cuda::kStreamNonBlocking); });
  Do("cuEventCreate", [&](const cuda::Api& api) { return api.event_create(&start_, 0); });
  Do("cuEventCreate", [&](const cuda::Api& api) { return api.event_create(&stop_, 0); });
}

Gpu::~Gpu() {
  Do("cuEventDestroy", [&](const cuda::Api& api) { return api.event_destroy(start_); });
  Do("cuEventDestroy", [&](const cuda::Api& api) { return api.event_destroy(stop_); });
  Do("cuStreamDestroy", [&](const cuda::Api& api) { return api.stream_destroy(stream_); });
}

std::string Gpu::Description() const {
  return absl::StrCat(
      "driver ", driver_->version(), ", ", info_.name, ", ", info_.uuid, ", ",
      info_.total_bytes >> 20, " MiB",
      fake() ? "; THE FAKE DRIVER: times are those of its threads and of memcpy" : "");
}

uint64_t Gpu::FreeBytes() const {
  size_t free_bytes = 0, total = 0;
  Do("cuMemGetInfo", [&](const cuda::Api& api) { return api.mem_get_info(&free_bytes, &total); });
  return free_bytes;
}

cuda::Mapping Gpu::Allocate(uint64_t bytes) const {
  const uint64_t unit = Need(cuda::Allocation::Granularity(*driver_, info_.ordinal));
  const cuda::Allocation memory =
      Need(cuda::Allocation::Create(driver_, info_.ordinal, (bytes + unit - 1) / unit * unit));
  return Need(cuda::Mapping::Map(memory, info_.ordinal, cuda::Mapping::Access::kReadWrite));
}

void Gpu::Register(std::vector<std::byte>& memory) const {
  Do("cuMemHostRegister",
     [&](const cuda::Api& api) { return api.mem_host_register(memory.data(), memory.size(), 0); });
}

void Gpu::Unregister(std::vector<std::byte>& memory) const {
  Do("cuMemHostUnregister",
     [&](const cuda::Api& api) { return api.mem_host_unregister(memory.data()); });
}

void Gpu::Copy(cuda::DevicePointer to, cuda::DevicePointer from, uint64_t bytes) const {
  Do("cuMemcpyDtoDAsync",
     [&](const cuda::Api& api) { return api.memcpy_dtod_async(to, from, bytes, stream_); });
}

void Gpu::CopyFromHost(cuda::DevicePointer to, const std::byte* from, uint64_t bytes) const {
  Do("cuMemcpyHtoDAsync",
     [&](const cuda::Api& api) { return api.memcpy_htod_async(to, from, bytes, stream_); });
}

void Gpu::CopyToHost(std::byte* to, cuda::DevicePointer from, uint64_t bytes) const {
  Do("cuMemcpyDtoHAsync",
     [&](const cuda::Api& api) { return api.memcpy_dtoh_async(to, from, bytes, stream_); });
}

void Gpu::Synchronize() const {
  Do("cuStreamSynchronize", [&](const cuda::Api& api) { return api.stream_synchronize(stream_); });
}

void Gpu::Start() const {
  Do("cuEventRecord", [&](const cuda::Api& api) { return api.event_record(start_, stream_); });
}

std::chrono::nanoseconds Gpu::Stop() const {
  float milliseconds = 0;
  Do("cuEventRecord", [&](const cuda::Api& api) { return api.event_record(stop_, stream_); });
  Do("cuEventSynchronize", [&](const cuda::Api& api) { return api.event_synchronize(stop_); });
  Do("cuEventElapsedTime",
     [&](const cuda::Api& api) { return api.event_elapsed_time(&milliseconds, start_, stop_); });
  return std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6));
}

}  // namespace infercache::bench
