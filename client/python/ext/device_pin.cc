#include "client/python/ext/device_pin.h"

#include <algorithm>
#include <utility>

#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/without_gil.h"

namespace infercache::python {

namespace {

// Given back it might be overwritten while the GPU reads it, or written by it when it is another's.
void KeepForGood(DeviceMemory memory) { new DeviceMemory(std::move(memory)); }

absl::Status LetGoAfterAll(DeviceMemory& memory, Streams* streams) {
  if (auto* const object = std::get_if<DeviceObject>(&memory)) {
    return object->ReleaseAfterAll(streams);
  }
  return std::get<DeviceRoom>(memory).reservation.AbandonAfterAll(streams);
}

}  // namespace

StreamOwners::~StreamOwners() {
  if (all_.empty()) return;
  if (Py_IsInitialized() && nanobind::is_alive()) {
    const nanobind::gil_scoped_acquire gil;
    all_.clear();
    return;
  }
  // Nobody can say what is still there to be let go of.
  for (nanobind::object& one : all_) (void)one.release();
}

Stranded::Stranded() : fork_epoch_(ForkEpoch()) {}

Stranded::~Stranded() {
  if (fork_epoch_ == ForkEpoch()) {
    const WithoutGil nogil;
    TryAgain();
  }
  for (One& one : all_) KeepForGood(std::move(one.memory));
}

bool Stranded::Settle(One& one) {
  const absl::Status status = LetGoAfterAll(one.memory, &one.streams);
  if (absl::IsFailedPrecondition(status)) return false;
  if (!status.ok()) KeepForGood(std::move(one.memory));
  return true;
}

void Stranded::Release(DeviceMemory memory, Streams streams, SharedOwners owners) {
  One one{std::move(memory), std::move(streams), std::move(owners)};
  if (Settle(one)) return;
  const std::lock_guard lock(mu_);
  all_.push_back(std::move(one));
}

void Stranded::TryAgain() {
  std::vector<One> some;
  {
    const std::lock_guard lock(mu_);
    if (all_.empty()) return;
    some.swap(all_);
  }
  std::erase_if(some, &Settle);
  const std::lock_guard lock(mu_);
  for (One& one : some) all_.push_back(std::move(one));
}

DevicePin::DevicePin(DeviceMemory memory, std::shared_ptr<const DeviceId> device,
                     std::shared_ptr<Stranded> stranded)
    : memory_(std::move(memory)),
      device_(std::move(device)),
      stranded_(std::move(stranded)),
      fork_epoch_(ForkEpoch()) {}

DevicePin::~DevicePin() {
  if (inherited()) return;  // the parent has the pin
  const WithoutGil nogil;
  stranded_->TryAgain();
  stranded_->Release(std::move(memory_), streams_.empty() ? Streams{nullptr} : streams_, owners_);
}

bool DevicePin::inherited() const { return fork_epoch_ != ForkEpoch(); }

const std::vector<PartSpec>& DevicePin::parts() const {
  return writable() ? std::get<DeviceRoom>(memory_).parts : object().parts();
}

DevicePointer DevicePin::address() const {
  return writable() ? std::get<DeviceRoom>(memory_).reservation.address() : object().address();
}

uint64_t DevicePin::size_bytes() const {
  return writable() ? std::get<DeviceRoom>(memory_).reservation.size_bytes()
                    : object().size_bytes();
}

DevicePointer DevicePin::part_address(size_t part) const {
  DevicePointer address = this->address();
  for (size_t k = 0; k < part; ++k) address += parts()[k].size_bytes;
  return address;
}

absl::Status DevicePin::CheckNotCapturing(DeviceStream stream) const {
  const WithoutGil nogil;
  return writable() ? std::get<DeviceRoom>(memory_).reservation.CheckNotCapturing(stream)
                    : object().CheckNotCapturing(stream);
}

void DevicePin::UsedBy(DeviceStream stream) {
  const std::lock_guard lock(mu_);
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end()) {
    streams_.push_back(stream);
  }
}

void DevicePin::UsedBy(DeviceStream stream, nanobind::handle owner) {
  if (!owner.is_none()) owners_->Add(owner);
  UsedBy(stream);
}

void DevicePin::AddStreamsTo(Streams* streams) const {
  for (const DeviceStream stream : streams_) {
    if (std::find(streams->begin(), streams->end(), stream) == streams->end()) {
      streams->push_back(stream);
    }
  }
}

absl::Status DevicePin::Release(DeviceStream also) {
  const WithoutGil nogil;
  Streams streams = {also};
  AddStreamsTo(&streams);
  return LetGoAfterAll(memory_, &streams);
}

std::vector<PutResult> DevicePin::Commit(std::span<const SharedPin> rooms, Device& device,
                                         DeviceStream also, const CallOptions& call) {
  const WithoutGil nogil;
  Streams streams = {also};
  std::vector<DeviceReservation> reservations;
  for (const SharedPin& pin : rooms) {
    pin->AddStreamsTo(&streams);
    reservations.push_back(std::move(std::get<DeviceRoom>(pin->memory_).reservation));
  }
  std::vector<PutResult> results =
      device.Commit(reservations, std::span<const DeviceStream>(streams), call);
  for (size_t i = 0; i < rooms.size(); ++i) {
    std::get<DeviceRoom>(rooms[i]->memory_).reservation = std::move(reservations[i]);
  }
  return results;
}

}  // namespace infercache::python
