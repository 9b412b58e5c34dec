#include "client/src/device_impl.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "client/src/local_object.h"
#include "client/src/local_reserve.h"
#include "client/src/mapped_device_chunk.h"
#include "client/src/registered_chunk.h"
#include "client/src/results.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

using Copies = LocalTransport::Copies;

// What a stream still works on.
struct KeptStorage final : DeviceThread::Kept {
  explicit KeptStorage(std::unique_ptr<Object::Storage> s) : storage(std::move(s)) {}
  const std::unique_ptr<Object::Storage> storage;
};
struct KeptDeviceObject final : DeviceThread::Kept {
  explicit KeptDeviceObject(DeviceObject o) : object(std::move(o)) {}
  DeviceObject object;
};
struct KeptReservations final : DeviceThread::Kept {
  explicit KeptReservations(std::vector<DeviceReservation> r) : reservations(std::move(r)) {}
  bool written() const override { return true; }
  std::vector<DeviceReservation> reservations;
};

uint64_t SizeOf(const DevicePutItem& item) {
  if (item.pieces.empty()) return item.size_bytes;
  uint64_t size = 0;
  for (const DevicePiece& piece : item.pieces) size += piece.size_bytes;
  return size;
}

// As opening a session with it is answered: there is none, it is off, or none for this client.
bool MeansNoTier(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsUnimplemented(status) ||
         absl::IsPermissionDenied(status);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device::Impl>> Device::Impl::Open(Options options,
                                                                 std::string_view name) {
  ASSIGN_OR_RETURN(std::shared_ptr<const cuda::Driver> driver, cuda::Driver::Load());
  ASSIGN_OR_RETURN(cuda::DeviceInfo device, cuda::FindDevice(*driver, name));
  ASSIGN_OR_RETURN(std::shared_ptr<const cuda::PrimaryContext> context,
                   cuda::PrimaryContext::Retain(driver, device.ordinal));
  std::unique_ptr<Impl> impl(new Impl(std::move(options), std::move(driver), std::move(device)));
  ASSIGN_OR_RETURN(impl->thread_, DeviceThread::Start(std::move(context)));
  impl->staging_ = std::make_shared<HostStaging>(impl->thread_, impl->device_.uuid);
  impl->loans_ = std::make_unique<DeviceLoans>(impl->device_, impl->staging_, impl->options_.host,
                                               impl->options_.view_in_host);
  return impl;
}

absl::StatusOr<LocalTransport*> Device::Impl::Tier() {
  if (LocalTransport* const known = tier_.load(std::memory_order_acquire)) [[likely]]
    return known;
  MutexLock lock(&connect_mu_);
  if (transport_ == nullptr) {
    LocalTransport::Options lane = options_.lane;
    lane.device = device_.uuid;
    ASSIGN_OR_RETURN(transport_, LocalTransport::Connect(std::move(lane)));
    tier_.store(transport_.get(), std::memory_order_release);
  }
  return transport_.get();
}

DeviceStats Device::Impl::stats() const {
  DeviceStats stats = {.chunks_mapped = chunks_mapped_.load(),
                       .mapping_failures = mapping_failures_.load(),
                       .host_to_device_copies = host_to_device_copies_.load(),
                       .host_to_device_bytes = host_to_device_bytes_.load(),
                       .device_to_host_copies = staging_->copies().to_host.load(),
                       .device_to_host_bytes = staging_->copies().to_host_bytes.load(),
                       .host_chunks_registered = host_chunks_registered_.load(),
                       .host_registration_failures = host_registration_failures_.load(),
                       .held_for_streams = thread_->waiting()};
  loans_->AddTo(&stats);
  return stats;
}

absl::StatusOr<absl::Time> Device::Impl::DeadlineOf(const CallOptions& call) const {
  if (thread_->inherited()) {
    return absl::UnavailableError(
        "the device belongs to the parent process; open one in this process");
  }
  return absl::Now() + call.deadline.value_or(options_.deadline);
}

absl::StatusOr<DevicePointer> Device::Impl::AddressOf(ArenaChunk& chunk, const LocalPlace& place,
                                                      cuda::Mapping::Access access) {
  const auto imported = chunk.arena()->Use([&](const UniqueFd& fd, uint64_t bytes) {
    return MappedDeviceChunk::Map(driver_, device_.ordinal, fd, bytes, thread_);
  });
  if (!imported.ok()) {
    mapping_failures_.fetch_add(1);
    return imported.status();
  }
  chunks_mapped_.fetch_add(*imported);
  return static_cast<const MappedDeviceChunk&>(chunk.on_device()).address(access) + place.offset;
}

DeviceGetResult Device::Impl::OnDevice(GetResult got) {
  if (!got.object.has_value()) return {.status = std::move(got.status)};
  std::vector<PartSpec> parts = got.object->parts();
  ObjectInfo info = got.object->info();
  std::unique_ptr<Object::Storage> storage = got.object->Release();
  const auto& pin = static_cast<const ArenaStorage&>(*storage);
  const LocalPlace place = pin.place();
  const auto address = AddressOf(pin.chunk(), place, cuda::Mapping::Access::kRead);
  if (!address.ok()) return {.status = address.status()};
  DeviceGetResult result;
  result.object.emplace(*address, place.size_bytes, std::move(parts), std::move(info),
                        std::move(storage), staging_);
  return result;
}

std::vector<GetResult> Device::Impl::Pin(std::span<const std::string_view> keys,
                                         absl::Time deadline) {
  const auto tier = Tier();
  if (!tier.ok()) return FailedBatch<GetResult>(tier.status(), keys.size());
  std::vector<GetResult> got;
  if ((*tier)->TryGet(keys, Copies::kRefused, &got)) return got;
  Reached reached = Reached::kNotAsked;
  return (*tier)->GetNow(keys, Copies::kRefused, deadline, &reached);
}

DeviceGetResult Device::Impl::Find(std::string_view key, absl::Time deadline,
                                   bool* host_may_answer) {
  std::vector<GetResult> pinned = Pin({&key, 1}, deadline);
  // An object stays pinned for a little after its copy is done: until the thread hears of it.
  if (absl::IsResourceExhausted(pinned[0].status) && thread_->AwaitDone(SteadyDeadline(deadline))) {
    pinned = Pin({&key, 1}, deadline);
  }
  *host_may_answer = pinned[0].status.ok() || MeansNoTier(pinned[0].status);
  return OnDevice(std::move(pinned[0]));
}

std::vector<DeviceGetResult> Device::Impl::Get(std::span<const std::string_view> keys,
                                               const CallOptions& call) {
  if (keys.empty()) return {};
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return FailedBatch<DeviceGetResult>(deadline.status(), keys.size());
  std::vector<DeviceGetResult> results;
  results.reserve(keys.size());
  for (GetResult& one : Pin(keys, *deadline)) results.push_back(OnDevice(std::move(one)));
  return results;
}

absl::Status Device::Impl::Copy(uint64_t bytes, cuda::Stream stream, absl::string_view call,
                                const std::function<cuda::Result(const cuda::Api&)>& copy) {
  if (bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(thread_->CheckNotCapturing(stream));
  const cuda::CurrentContext current(thread_->context());
  RETURN_IF_ERROR(current.status());
  return driver_->Check(copy(driver_->api()), std::string_view(call.data(), call.size()));
}

DeviceGetIntoResult Device::Impl::GetInto(std::string_view key, DevicePointer destination,
                                          uint64_t capacity, cuda::Stream stream,
                                          const CallOptions& call) {
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return {.status = deadline.status()};
  bool host_may_answer = false;
  DeviceGetResult got = Find(key, *deadline, &host_may_answer);
  if (!got.hit()) {
    if (!host_may_answer) return {.status = got.status};
    return GetIntoFromHost(key, destination, capacity, stream,
                           {.deadline = *deadline - absl::Now()}, got.status);
  }
  DeviceObject& object = *got.object;
  DeviceGetIntoResult result{.size_bytes = object.size_bytes()};
  if (object.size_bytes() > capacity) {
    result.status = TooLarge(object.size_bytes(), capacity);
    return result;
  }
  result.status = Copy(object.size_bytes(), stream, "cuMemcpyDtoDAsync", [&](const cuda::Api& api) {
    return api.memcpy_dtod_async(destination, object.address(), object.size_bytes(), stream);
  });
  if (!result.status.ok()) return result;
  result.status = thread_->KeepSurely(stream, std::make_unique<KeptDeviceObject>(std::move(object)),
                                      SteadyDeadline(*deadline));
  result.hit = result.status.ok();
  return result;
}

DeviceGetIntoResult Device::Impl::GetIntoFromHost(std::string_view key, DevicePointer destination,
                                                  uint64_t capacity, cuda::Stream stream,
                                                  const CallOptions& call,
                                                  const absl::Status& why) {
  const absl::Time deadline = absl::Now() + call.deadline.value_or(options_.deadline);
  GetResult got = options_.view_in_host(key, call);
  if (!got.hit()) return {.status = why.ok() ? got.status : why};
  const std::span<const std::byte> bytes = got.object->bytes();
  DeviceGetIntoResult result{.from_host = true, .size_bytes = bytes.size()};
  if (bytes.size() > capacity) {
    result.status = TooLarge(bytes.size(), capacity);
    return result;
  }
  std::unique_ptr<Object::Storage> storage = got.object->Release();
  if (IsRegistered(*storage)) {
    result.status = Copy(bytes.size(), stream, "cuMemcpyHtoDAsync", [&](const cuda::Api& api) {
      return api.memcpy_htod_async(destination, bytes.data(), bytes.size(), stream);
    });
    if (!result.status.ok()) return result;
    result.status = thread_->KeepSurely(stream, std::make_unique<KeptStorage>(std::move(storage)),
                                        SteadyDeadline(deadline));
  } else {
    result.status = staging_->CopyToDevice(destination, bytes, stream, SteadyDeadline(deadline));
    if (result.status.ok()) result.status = CheckStillPinned(*storage);
  }
  result.hit = result.status.ok();
  if (!result.hit) return result;
  host_to_device_copies_.fetch_add(1);
  host_to_device_bytes_.fetch_add(bytes.size());
  return result;
}

bool Device::Impl::IsRegistered(const Object::Storage& storage) {
  if (!options_.registers_host_memory) return false;
  const auto* const in_arena = dynamic_cast<const ArenaStorage*>(&storage);
  if (in_arena == nullptr) return false;  // a copy
  return in_arena->chunk().IsRegistered([this](const MappedSegment& chunk) {
    auto registered = RegisteredHostChunk::Register(chunk, device_.ordinal, thread_);
    (registered.ok() ? host_chunks_registered_ : host_registration_failures_).fetch_add(1);
    return registered;
  });
}

GetIntoResult Device::Impl::GetIntoHost(std::string_view key, std::span<std::byte> destination,
                                        const CallOptions& call) {
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return {.status = deadline.status()};
  bool host_may_answer = false;
  const DeviceGetResult got = Find(key, *deadline, &host_may_answer);
  if (!got.hit()) {
    if (!host_may_answer) return {.status = got.status};
    return GetIntoHostFromHost(key, destination, *deadline, got.status);
  }
  const DeviceObject& object = *got.object;
  const uint64_t size = object.size_bytes();
  GetIntoResult result{.size_bytes = size};
  if (size > destination.size()) {
    result.status = TooLarge(size, destination.size());
    return result;
  }
  result.status = object.CopyToHost(0, destination.first(size), *deadline - absl::Now());
  result.hit = result.status.ok();
  return result;
}

GetIntoResult Device::Impl::GetIntoHostFromHost(std::string_view key,
                                                std::span<std::byte> destination,
                                                absl::Time deadline, const absl::Status& why) {
  GetIntoResult result;
  if (!options_.host->TryGetInto(key, destination, &result)) {
    Reached reached = Reached::kNotAsked;
    result = options_.host->GetIntoNow({&key, 1}, {&destination, 1}, deadline, &reached)[0];
  }
  // It is there, where its size is told.
  if (!result.hit && result.size_bytes == 0 && !why.ok()) result.status = why;
  return result;
}

DeviceReserveResult Device::Impl::OnDevice(ReserveResult reserved) {
  DeviceReserveResult result{.status = std::move(reserved.status), .exists = reserved.exists};
  if (!reserved.reservation.has_value()) return result;
  std::unique_ptr<Reservation::Room> released = reserved.reservation->Release();
  const auto& room = static_cast<const LocalRoom&>(*released);
  const LocalPlace place = room.place();
  const auto address = AddressOf(room.chunk(), place, cuda::Mapping::Access::kReadWrite);
  result.status = address.status();
  if (!address.ok()) return result;
  result.reservation.emplace(*address, place.size_bytes,
                             Reservation(std::span<std::byte>(), std::move(released)), staging_);
  return result;
}

std::vector<DeviceReserveResult> Device::Impl::Reserve(std::span<const ReserveItem> items,
                                                       const CallOptions& call) {
  if (items.empty()) return {};
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return FailedBatch<DeviceReserveResult>(deadline.status(), items.size());
  const auto tier = Tier();
  if (!tier.ok()) return FailedBatch<DeviceReserveResult>(tier.status(), items.size());
  Reached reached = Reached::kNotAsked;
  std::vector<DeviceReserveResult> results;
  for (ReserveResult& one : (*tier)->ReserveNow(items, *deadline, &reached)) {
    results.push_back(OnDevice(std::move(one)));
  }
  return results;
}

std::vector<PutResult> Device::Impl::Commit(std::span<DeviceReservation> reservations,
                                            std::span<const DeviceStream> streams,
                                            const CallOptions& call) {
  if (reservations.empty()) return {};
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return FailedBatch<PutResult>(deadline.status(), reservations.size());
  for (const DeviceReservation& one : reservations) {
    // What is not for its session to commit would be given back while the GPU may write there.
    if (!one || one.IsOf(*staging_)) continue;
    return FailedBatch<PutResult>(
        absl::InvalidArgumentError("a reservation of another device is not for this one to commit"),
        reservations.size());
  }
  const auto tier = Tier();
  if (!tier.ok()) return FailedBatch<PutResult>(tier.status(), reservations.size());
  for (const DeviceStream stream : streams) {
    const absl::Status written =
        thread_->AwaitStream(static_cast<cuda::Stream>(stream), SteadyDeadline(*deadline));
    if (!written.ok()) return FailedBatch<PutResult>(written, reservations.size());
  }
  std::vector<Reservation> rooms;
  for (DeviceReservation& reservation : reservations) rooms.push_back(reservation.Release());
  Reached reached = Reached::kNotAsked;
  return (*tier)->CommitNow(rooms, *deadline, &reached);
}

absl::Status Device::Impl::Gather(const DevicePutItem& item, DevicePointer to, cuda::Stream stream,
                                  bool* begun) {
  const DevicePiece only = {.address = item.source, .size_bytes = item.size_bytes};
  for (const DevicePiece& piece :
       item.pieces.empty() ? std::span(&only, 1) : std::span(item.pieces)) {
    RETURN_IF_ERROR(Copy(piece.size_bytes, stream, "cuMemcpyDtoDAsync", [&](const cuda::Api& api) {
      return api.memcpy_dtod_async(to, piece.address, piece.size_bytes, stream);
    }));
    to += piece.size_bytes;
    *begun = true;
  }
  return absl::OkStatus();
}

std::vector<PutResult> Device::Impl::Put(std::span<const DevicePutItem> items, cuda::Stream stream,
                                         const CallOptions& call) {
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return FailedBatch<PutResult>(deadline.status(), items.size());
  std::vector<ReserveItem> wanted;
  for (const DevicePutItem& item : items) {
    wanted.push_back({.key = item.key,
                      .size_bytes = SizeOf(item),
                      .info = item.info,
                      .parts = item.parts,
                      .overwrite = item.overwrite});
  }
  std::vector<PutResult> results(items.size());
  std::vector<DeviceReservation> rooms, not_written;
  std::vector<size_t> items_of_rooms;
  bool begun = false;
  std::vector<DeviceReserveResult> reserved =
      Reserve(wanted, {.deadline = *deadline - absl::Now()});
  for (size_t i = 0; i < items.size(); ++i) {
    results[i].status = std::move(reserved[i].status);
    if (reserved[i].exists) results[i].outcome = PutOutcome::kExists;
    if (!reserved[i].reservation.has_value()) continue;
    DeviceReservation room = *std::move(reserved[i].reservation);
    results[i].status = Gather(items[i], room.address(), stream, &begun);
    if (!results[i].status.ok()) {
      not_written.push_back(std::move(room));
      continue;
    }
    rooms.push_back(std::move(room));
    items_of_rooms.push_back(i);
  }
  const DeviceStream streams[] = {stream};
  std::vector<PutResult> stored = Commit(rooms, streams, {.deadline = *deadline - absl::Now()});
  for (size_t k = 0; k < stored.size(); ++k) results[items_of_rooms[k]] = std::move(stored[k]);
  if (begun) {
    KeepUntilDone(std::move(rooms), stream, *deadline);
    KeepUntilDone(std::move(not_written), stream, *deadline);
  }
  return results;
}

void Device::Impl::KeepUntilDone(std::vector<DeviceReservation> rooms, cuda::Stream stream,
                                 absl::Time deadline) {
  std::erase_if(rooms, [](const DeviceReservation& room) { return !room; });
  if (rooms.empty()) return;
  (void)thread_->KeepSurely(stream, std::make_unique<KeptReservations>(std::move(rooms)),
                            SteadyDeadline(deadline));
}

std::vector<LendResult> Device::Impl::Lend(std::span<const LendItem> items, cuda::Stream stream,
                                           const CallOptions& call) {
  if (items.empty()) return {};
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return FailedBatch<LendResult>(deadline.status(), items.size());
  const absl::Status written = thread_->AwaitStream(stream, SteadyDeadline(*deadline));
  if (!written.ok()) return FailedBatch<LendResult>(written, items.size());
  return loans_->Lend(items, *deadline);
}

std::vector<DeviceGetResult> Device::Impl::Borrow(std::span<const std::string_view> keys,
                                                  const CallOptions& call) {
  if (keys.empty()) return {};
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return FailedBatch<DeviceGetResult>(deadline.status(), keys.size());
  return loans_->Borrow(keys, *deadline);
}

std::vector<absl::Status> Device::Impl::TakeBack(std::span<const std::string_view> keys,
                                                 const CallOptions& call) {
  if (keys.empty()) return {};
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return std::vector<absl::Status>(keys.size(), deadline.status());
  return loans_->TakeBack(keys, *deadline);
}

KeysResult Device::Impl::Keys(KeysVerb verb, std::span<const std::string_view> keys,
                              const CallOptions& call) {
  KeysResult result;
  if (keys.empty()) return result;
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return {.status = deadline.status()};
  const auto tier = Tier();
  if (!tier.ok()) return {.status = tier.status()};
  if ((*tier)->TryKeys(verb, keys, &result)) return result;
  Reached reached = Reached::kNotAsked;
  return (*tier)->KeysNow(verb, keys, *deadline, &reached);
}

MatchResult Device::Impl::Match(std::span<const std::string_view> keys, const CallOptions& call) {
  MatchResult result;
  if (keys.empty()) return result;
  const auto deadline = DeadlineOf(call);
  if (!deadline.ok()) return {.status = deadline.status()};
  const auto tier = Tier();
  if (!tier.ok()) return {.status = tier.status()};
  if ((*tier)->TryMatch(keys, &result)) return result;
  Reached reached = Reached::kNotAsked;
  return (*tier)->MatchNow(keys, *deadline, &reached);
}

}  // namespace infercache
