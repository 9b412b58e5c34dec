#include "server/gpu/device_tiers.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/cuda/memory.h"
#include "common/duplicate_fd.h"
#include "common/start_thread.h"
#include "common/status_macros.h"
#include "server/store/chunks.h"
#include "server/store/space.h"

namespace infercache::gpu {
namespace {

constexpr absl::Duration kMoment = absl::Milliseconds(100);

// The chunks of a tier and their descriptors. Whoever has one can write: CUDA knows no other.
struct Allocated {
  std::vector<cuda::Allocation> memory;
  std::vector<UniqueFd> descriptors;
};

// Asks the driver for nothing any more, but on a thread of its own to give the memory back: neither
// who opens a session nor who is the last to have the namespace must wait for a GPU that hangs.
class DeviceChunks final : public store::Chunks {
 public:
  DeviceChunks(std::shared_ptr<const std::vector<cuda::Allocation>> memory,
               std::vector<UniqueFd> descriptors)
      : memory_(std::move(memory)), descriptors_(std::move(descriptors)) {}
  ~DeviceChunks() override {
    auto gives_back =
        StartThread("infercached-mem",
                    [memory = std::move(memory_), descriptors = std::move(descriptors_)]() mutable {
                      descriptors.clear();
                      memory.reset();
                    });
    // Nobody waits for it, the end of the process neither. Out of threads it is done by now.
    if (gives_back.ok()) gives_back->detach();
  }

  std::span<std::byte> bytes(uint32_t) const override { return {}; }
  absl::StatusOr<UniqueFd> Open(uint32_t chunk, bool) const override {
    return Duplicate(descriptors_[chunk].get());
  }

 private:
  std::shared_ptr<const std::vector<cuda::Allocation>> memory_;
  std::vector<UniqueFd> descriptors_;
};

absl::StatusOr<Allocated> Allocate(const std::shared_ptr<const cuda::Driver>& driver,
                                   cuda::Device device, const store::ArenaGeometry& arena) {
  Allocated chunks;
  for (uint64_t i = 0; i < arena.chunk_count; ++i) {
    ASSIGN_OR_RETURN(cuda::Allocation memory,
                     cuda::Allocation::Create(driver, device, arena.chunk_bytes));
    ASSIGN_OR_RETURN(UniqueFd descriptor, memory.Export());
    chunks.memory.push_back(std::move(memory));
    chunks.descriptors.push_back(std::move(descriptor));
  }
  return chunks;
}

bool WaitAMoment(absl::Duration moment) {
  std::this_thread::sleep_for(absl::ToChronoMilliseconds(moment));
  return true;
}

// Calls `ask` again and again while it fails with `again`.
template <class Ask>
auto AskPatiently(absl::StatusCode again, absl::Time deadline, const TierOptions& options,
                  Ask ask) {
  while (true) {
    auto result = ask();
    if (result.ok() || result.status().code() != again || absl::Now() >= deadline ||
        !(options.wait ? options.wait(kMoment) : WaitAMoment(kMoment))) {
      return result;
    }
  }
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

absl::Status DeviceTiers::LoadDriver() {
  if (driver_ != nullptr) return absl::OkStatus();
  if (!driver_deadline_) driver_deadline_ = absl::Now() + options_.patience;
  auto driver = AskPatiently(absl::StatusCode::kUnavailable, *driver_deadline_, options_,
                             [&] { return cuda::Driver::Load(options_.library); });
  driver_status_ = driver.status();
  RETURN_IF_ERROR(driver_status_);
  driver_ = *std::move(driver);
  return absl::OkStatus();
}

absl::Status DeviceTiers::TryToAdd(store::Store& store, const TierRequest& request,
                                   TierResult* result) {
  RETURN_IF_ERROR(LoadDriver());
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
  RETURN_IF_ERROR(store::CheckChunkCount(arena));  // before so many are made
  ASSIGN_OR_RETURN(Allocated chunks, AskPatiently(absl::StatusCode::kResourceExhausted,
                                                  absl::Now() + options_.patience, options_, [&] {
                                                    return Allocate(driver_, device.ordinal, arena);
                                                  }));
  const auto memory =
      std::make_shared<const std::vector<cuda::Allocation>>(std::move(chunks.memory));
  ASSIGN_OR_RETURN(Demoter* const demoter, DemoterOf(device));
  RETURN_IF_ERROR(
      store.AddDeviceTier(*request.ns, device.uuid, arena,
                          std::make_unique<DeviceChunks>(memory, std::move(chunks.descriptors)),
                          demoter != nullptr ? demoter->low_room() : std::function<bool()>()));
  if (demoter == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::shared_ptr<store::Namespace> tier, request.ns->FindDeviceTier(device.uuid));
  demoter->Add({.host = request.ns, .objects = std::move(tier), .memory = memory});
  return absl::OkStatus();
}

absl::StatusOr<Demoter*> DeviceTiers::DemoterOf(const cuda::DeviceInfo& device) {
  if (!options_.demote) return nullptr;
  std::unique_ptr<Demoter>& demoter = demoters_[device.uuid];
  if (demoter == nullptr) {
    ASSIGN_OR_RETURN(demoter,
                     Demoter::Start(driver_, device.ordinal, registry_, options_.demotion));
  }
  return demoter.get();
}

}  // namespace infercache::gpu
