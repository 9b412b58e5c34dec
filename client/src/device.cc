#include "infercache/device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/src/device_impl.h"
#include "client/src/host_staging.h"
#include "client/src/local_object.h"
#include "common/cuda/driver.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

struct KeptPin final : DeviceThread::Kept {
  explicit KeptPin(std::shared_ptr<Object::Storage> p) : pin(std::move(p)) {}
  const std::shared_ptr<Object::Storage> pin;
};

struct KeptRoom final : DeviceThread::Kept {
  explicit KeptRoom(std::shared_ptr<Reservation> r) : room(std::move(r)) {}
  bool written() const override { return true; }
  const std::shared_ptr<Reservation> room;
};

cuda::Stream ToCuda(DeviceStream stream) { return static_cast<cuda::Stream>(stream); }

// Keeps `what` until each of `streams` is done. Those that it will wait for leave the list, so that
// after an error only the others have to be tried again.
template <class Kept, class What>
absl::Status KeepUntilAllDone(DeviceThread& thread, std::vector<DeviceStream>* streams,
                              const std::shared_ptr<What>& what) {
  while (!streams->empty()) {
    std::unique_ptr<DeviceThread::Kept> kept = std::make_unique<Kept>(what);
    RETURN_IF_ERROR(thread.KeepUntilDone(ToCuda(streams->front()), &kept));
    streams->erase(streams->begin());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> DeviceUuid(int ordinal) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const cuda::Driver> driver, cuda::Driver::Load());
  ASSIGN_OR_RETURN(const std::vector<cuda::DeviceInfo> devices, cuda::ListDevices(*driver));
  if (ordinal >= 0 && static_cast<size_t>(ordinal) < devices.size()) return devices[ordinal].uuid;
  return absl::NotFoundError(
      absl::StrCat("there is no GPU ", ordinal, " in this process, which sees ", devices.size()));
}

DeviceObject::DeviceObject(DevicePointer address, uint64_t size_bytes, std::vector<PartSpec> parts,
                           ObjectInfo info, std::unique_ptr<Object::Storage> pin,
                           std::shared_ptr<HostStaging> staging)
    : address_(address),
      size_bytes_(size_bytes),
      parts_(std::move(parts)),
      info_(std::move(info)),
      staging_(std::move(staging)),
      pin_(std::move(pin)) {}
DeviceObject::DeviceObject(DeviceObject&& other) noexcept
    : address_(std::exchange(other.address_, 0)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      parts_(std::move(other.parts_)),
      info_(std::move(other.info_)),
      staging_(std::move(other.staging_)),
      pin_(std::move(other.pin_)) {}
DeviceObject& DeviceObject::operator=(DeviceObject&& other) noexcept {
  address_ = std::exchange(other.address_, 0);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  parts_ = std::move(other.parts_);
  info_ = std::move(other.info_);
  pin_ = std::move(other.pin_);
  staging_ = std::move(other.staging_);
  return *this;
}
DeviceObject::~DeviceObject() = default;

DevicePointer DeviceObject::part_address(size_t i) const {
  DevicePointer address = address_;
  for (size_t k = 0; k < i; ++k) address += parts_[k].size_bytes;
  return address;
}

const std::string& DeviceObject::uuid() const { return staging_->uuid(); }

absl::Status DeviceObject::ReleaseAfter(DeviceStream stream) {
  std::vector<DeviceStream> streams = {stream};
  return ReleaseAfterAll(&streams);
}

absl::Status DeviceObject::ReleaseAfterAll(std::vector<DeviceStream>* streams) {
  if (pin_ == nullptr) return absl::OkStatus();
  if (staging_->thread()->inherited())
    return absl::UnavailableError("the object is the parent process's");
  RETURN_IF_ERROR(KeepUntilAllDone<KeptPin>(*staging_->thread(), streams, pin_));
  pin_.reset();
  address_ = 0;
  return absl::OkStatus();
}

absl::Status DeviceObject::CheckNotCapturing(DeviceStream stream) const {
  if (staging_->thread()->inherited())
    return absl::UnavailableError("the object is the parent process's");
  return staging_->thread()->CheckNotCapturing(ToCuda(stream));
}

absl::Status DeviceObject::CopyToHost(uint64_t offset, std::span<std::byte> to,
                                      absl::Duration deadline) const {
  if (staging_->thread()->inherited()) {
    return absl::UnavailableError("the object is the parent process's");
  }
  RETURN_IF_ERROR(
      staging_->CopyToHost(address_ + offset, to, pin_, SteadyDeadline(absl::Now() + deadline)));
  RETURN_IF_ERROR(CheckStillPinned(*pin_));
  staging_->copies().to_host.fetch_add(1);
  staging_->copies().to_host_bytes.fetch_add(to.size());
  return absl::OkStatus();
}

DeviceReservation::DeviceReservation(DevicePointer address, uint64_t size_bytes, Reservation room,
                                     std::shared_ptr<HostStaging> staging)
    : address_(address),
      size_bytes_(size_bytes),
      staging_(std::move(staging)),
      room_(std::make_shared<Reservation>(std::move(room))) {}

absl::Status DeviceReservation::AbandonAfter(DeviceStream stream) {
  std::vector<DeviceStream> streams = {stream};
  return AbandonAfterAll(&streams);
}

absl::Status DeviceReservation::AbandonAfterAll(std::vector<DeviceStream>* streams) {
  if (!*this) return absl::OkStatus();
  if (staging_->thread()->inherited())
    return absl::UnavailableError("the reservation is the parent process's");
  RETURN_IF_ERROR(KeepUntilAllDone<KeptRoom>(*staging_->thread(), streams, room_));
  room_.reset();
  return absl::OkStatus();
}

absl::Status DeviceReservation::CheckNotCapturing(DeviceStream stream) const {
  if (staging_->thread()->inherited())
    return absl::UnavailableError("the reservation is the parent process's");
  return staging_->thread()->CheckNotCapturing(ToCuda(stream));
}

Reservation DeviceReservation::Release() {
  return room_ == nullptr ? Reservation() : std::move(*room_);
}

Device::Device(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Device::~Device() {
  // Its locks may be held, and its thread is the parent's.
  if (impl_->inherited()) (void)impl_.release();
}

const std::string& Device::uuid() const { return impl_->uuid(); }
DeviceStats Device::stats() const { return impl_->stats(); }

DeviceGetResult Device::Get(std::string_view key, const CallOptions& call) {
  return std::move(impl_->Get({&key, 1}, call)[0]);
}
std::vector<DeviceGetResult> Device::Get(std::span<const std::string_view> keys,
                                         const CallOptions& call) {
  return impl_->Get(keys, call);
}
DeviceGetIntoResult Device::GetInto(std::string_view key, DevicePointer destination,
                                    uint64_t capacity, DeviceStream stream,
                                    const CallOptions& call) {
  return impl_->GetInto(key, destination, capacity, ToCuda(stream), call);
}
GetIntoResult Device::GetIntoHost(std::string_view key, std::span<std::byte> destination,
                                  const CallOptions& call) {
  return impl_->GetIntoHost(key, destination, call);
}
PutResult Device::Put(const DevicePutItem& item, DeviceStream stream, const CallOptions& call) {
  return impl_->Put({&item, 1}, ToCuda(stream), call)[0];
}
std::vector<PutResult> Device::Put(std::span<const DevicePutItem> items, DeviceStream stream,
                                   const CallOptions& call) {
  return impl_->Put(items, ToCuda(stream), call);
}
std::vector<DeviceReserveResult> Device::Reserve(std::span<const ReserveItem> items,
                                                 const CallOptions& call) {
  return impl_->Reserve(items, call);
}
std::vector<PutResult> Device::Commit(std::span<DeviceReservation> reservations,
                                      DeviceStream stream, const CallOptions& call) {
  return impl_->Commit(reservations, {&stream, 1}, call);
}
std::vector<PutResult> Device::Commit(std::span<DeviceReservation> reservations,
                                      std::span<const DeviceStream> streams,
                                      const CallOptions& call) {
  return impl_->Commit(reservations, streams, call);
}
LendResult Device::Lend(const LendItem& item, DeviceStream stream, const CallOptions& call) {
  return std::move(impl_->Lend({&item, 1}, ToCuda(stream), call)[0]);
}
std::vector<LendResult> Device::Lend(std::span<const LendItem> items, DeviceStream stream,
                                     const CallOptions& call) {
  return impl_->Lend(items, ToCuda(stream), call);
}
DeviceGetResult Device::Borrow(std::string_view key, const CallOptions& call) {
  return std::move(impl_->Borrow({&key, 1}, call)[0]);
}
std::vector<DeviceGetResult> Device::Borrow(std::span<const std::string_view> keys,
                                            const CallOptions& call) {
  return impl_->Borrow(keys, call);
}
absl::Status Device::TakeBack(std::string_view key, const CallOptions& call) {
  return impl_->TakeBack({&key, 1}, call)[0];
}
std::vector<absl::Status> Device::TakeBack(std::span<const std::string_view> keys,
                                           const CallOptions& call) {
  return impl_->TakeBack(keys, call);
}
KeysResult Device::Exists(std::span<const std::string_view> keys, const CallOptions& call) {
  return impl_->Keys(KeysVerb::kExists, keys, call);
}
KeysResult Device::Touch(std::span<const std::string_view> keys, const CallOptions& call) {
  return impl_->Keys(KeysVerb::kTouch, keys, call);
}
KeysResult Device::Delete(std::span<const std::string_view> keys, const CallOptions& call) {
  return impl_->Keys(KeysVerb::kDelete, keys, call);
}
MatchResult Device::Match(std::span<const std::string_view> keys, const CallOptions& call) {
  return impl_->Match(keys, call);
}

}  // namespace infercache
