#include "server/gpu/device_tiers.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/cuda/memory.h"
#include "common/status_macros.h"
#include "server/store/chunks.h"
#include "server/store/space.h"

namespace infercache::gpu {
namespace {

constexpr absl::Duration kMoment = absl::Milliseconds(100);

class DeviceChunks final : public store::Chunks {
 public:
  explicit DeviceChunks(std::vector<cuda::Allocation> chunks) : chunks_(std::move(chunks)) {}

  std::span<std::byte> bytes(uint32_t) const override { return {}; }
  // Whoever has it can write: CUDA knows no other descriptor.
  absl::StatusOr<UniqueFd> Open(uint32_t chunk, bool) const override {
    return chunks_[chunk].Export();
  }

 private:
  const std::vector<cuda::Allocation> chunks_;
};

absl::StatusOr<std::unique_ptr<store::Chunks>> Allocate(
    const std::shared_ptr<const cuda::Driver>& driver, cuda::Device device,
    const store::ArenaGeometry& arena) {
  std::vector<cuda::Allocation> chunks;
  for (uint64_t i = 0; i < arena.chunk_count; ++i) {
    ASSIGN_OR_RETURN(cuda::Allocation chunk,
                     cuda::Allocation::Create(driver, device, arena.chunk_bytes));
    // What cannot be handed out is of no use; better to know now.
    RETURN_IF_ERROR(chunk.Export().status());
    chunks.push_back(std::move(chunk));
  }
  return std::make_unique<DeviceChunks>(std::move(chunks));
}

bool WaitAMoment(absl::Duration moment) {
  std::this_thread::sleep_for(absl::ToChronoMilliseconds(moment));
  return true;
}

}  // namespace

TierResult DeviceTiers::Add(store::Store& store, const TierRequest& request) {
  TierResult result{
      .device = request.device, .name = {}, .bytes = request.bytes, .status = absl::OkStatus()};
  result.status = TryToAdd(store, request, &result);
  // A second one on a device leaves the first as it is.
  if (!result.status.ok() && !absl::IsAlreadyExists(result.status)) {
    request.ns->SetDeviceTier({.device = result.device,
                               .bytes = request.bytes,
                               .objects = nullptr,
                               .why_off = result.status});
  }
  return result;
}

absl::Status DeviceTiers::TryToAdd(store::Store& store, const TierRequest& request,
                                   TierResult* result) {
  if (driver_ == nullptr) {
    auto driver = cuda::Driver::Load(options_.library);
    driver_status_ = driver.status();
    RETURN_IF_ERROR(driver_status_);
    driver_ = *std::move(driver);
  }
  ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::FindDevice(*driver_, request.device));
  result->device = device.uuid;
  result->name = device.name;
  if (!device.shareable) {
    return absl::UnimplementedError(
        absl::StrCat("the GPU ", device.uuid, " cannot export memory as a descriptor"));
  }
  if (request.ns->FindDeviceTier(device.uuid).ok()) {
    return absl::AlreadyExistsError(absl::StrCat("namespace ", request.ns->spec().name,
                                                 " has two tiers on the GPU ", device.uuid));
  }
  ASSIGN_OR_RETURN(const uint64_t granularity,
                   cuda::Allocation::Granularity(*driver_, device.ordinal));
  const store::ArenaGeometry arena =
      store::PlanDeviceArena(request.bytes, options_.chunk_bytes, granularity);
  result->bytes = arena.total_bytes();
  const absl::Time deadline = absl::Now() + options_.patience;
  while (true) {
    auto chunks = Allocate(driver_, device.ordinal, arena);
    if (chunks.ok())
      return store.AddDeviceTier(*request.ns, device.uuid, arena, *std::move(chunks));
    if (!absl::IsResourceExhausted(chunks.status()) || absl::Now() >= deadline) {
      return chunks.status();
    }
    if (!(options_.wait ? options_.wait(kMoment) : WaitAMoment(kMoment))) return chunks.status();
  }
}

}  // namespace infercache::gpu
