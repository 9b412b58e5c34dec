#include "server/gpu/device_tiers.h"

#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/cuda/memory.h"
#include "common/duplicate_fd.h"
#include "common/mutex.h"
#include "common/start_thread.h"
#include "common/status_macros.h"
#include "server/store/chunks.h"
#include "server/store/space.h"

namespace infercache::gpu {
namespace {

constexpr absl::Duration kMoment = absl::Milliseconds(100);
constexpr std::chrono::milliseconds kGlance{20};  // at what else there is, while a call lasts

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

// What a call answers that may never do so. Shared by who asks and the thread that calls.
template <class T>
class Answer {
 public:
  void Give(T answer) {
    MutexLock lock(&mu_);
    answer_.emplace(std::move(answer));
    changed_.SignalAll();
  }
  // Null: not within `moment`. To be called until it comes.
  std::optional<T> Await(std::chrono::milliseconds moment) {
    const auto end = std::chrono::steady_clock::now() + moment;
    MutexLock lock(&mu_);
    while (!answer_.has_value()) {
      if (!changed_.WaitUntil(&mu_, end)) break;
    }
    return std::move(answer_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::optional<T> answer_ ABSL_GUARDED_BY(mu_);
};

struct Found {
  cuda::DeviceInfo device;
  uint64_t granularity = 0;  // of what it can share
};

absl::StatusOr<Found> Find(const cuda::Driver& driver, const std::string& name) {
  Found found;
  ASSIGN_OR_RETURN(found.device, cuda::FindDevice(driver, name));
  if (!found.device.shareable) return found;
  ASSIGN_OR_RETURN(found.granularity, cuda::Allocation::Granularity(driver, found.device.ordinal));
  return found;
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
  auto driver = AskPatiently(absl::StatusCode::kUnavailable, *driver_deadline_, options_, [this] {
    return Ask("cuInit", [library = options_.library] { return cuda::Driver::Load(library); });
  });
  driver_status_ = driver.status();
  RETURN_IF_ERROR(driver_status_);
  driver_ = *std::move(driver);
  return absl::OkStatus();
}

template <class Call>
auto DeviceTiers::Ask(absl::string_view what, Call call) -> decltype(call()) {
  RETURN_IF_ERROR(hangs_);
  const auto answer = std::make_shared<Answer<decltype(call())>>();
  ASSIGN_OR_RETURN(std::thread asks,
                   StartThread("infercached-ask", [answer, call] { answer->Give(call()); }));
  asks.detach();
  const absl::Time deadline = absl::Now() + options_.longest_call;
  while (true) {
    if (auto given = answer->Await(kGlance)) return *std::move(given);
    if (options_.stopping && options_.stopping()) return absl::CancelledError("stopping");
    if (absl::Now() < deadline) continue;
    hangs_ =
        absl::DeadlineExceededError(absl::StrCat("the driver hangs: ", what, " takes longer than ",
                                                 absl::FormatDuration(options_.longest_call)));
    return hangs_;
  }
}

absl::Status DeviceTiers::TryToAdd(store::Store& store, const TierRequest& request,
                                   TierResult* result) {
  RETURN_IF_ERROR(LoadDriver());
  ASSIGN_OR_RETURN(const Found found,
                   Ask("finding the GPU",
                       [driver = driver_, name = request.device] { return Find(*driver, name); }));
  const cuda::DeviceInfo& device = found.device;
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
  const store::ArenaGeometry arena =
      store::PlanDeviceArena(request.bytes, options_.chunk_bytes, found.granularity);
  result->bytes = arena.total_bytes();
  RETURN_IF_ERROR(store::CheckChunkCount(arena));  // before so many are made
  ASSIGN_OR_RETURN(Allocated chunks,
                   AskPatiently(absl::StatusCode::kResourceExhausted,
                                absl::Now() + options_.patience, options_, [&] {
                                  return Ask(absl::StrCat("cuMemCreate on ", device.uuid),
                                             [driver = driver_, ordinal = device.ordinal, arena] {
                                               return Allocate(driver, ordinal, arena);
                                             });
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
