#include "client/python/ext/device_pin.h"

#include <algorithm>
#include <utility>

#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/without_gil.h"

namespace infercache::python {

namespace {

// Unpinned it might be overwritten while the GPU reads it.
void KeepForGood(DeviceObject object) { new DeviceObject(std::move(object)); }

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
  for (One& one : all_) KeepForGood(std::move(one.object));
}

bool Stranded::Settle(One& one) {
  const absl::Status status = one.object.ReleaseAfterAll(&one.streams);
  if (absl::IsFailedPrecondition(status)) return false;
  if (!status.ok()) KeepForGood(std::move(one.object));
  return true;
}

void Stranded::Release(DeviceObject object, Streams streams, SharedOwners owners) {
  One one{std::move(object), std::move(streams), std::move(owners)};
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

DevicePin::DevicePin(DeviceObject object, std::shared_ptr<const DeviceId> device,
                     std::shared_ptr<Stranded> stranded)
    : object_(std::move(object)),
      device_(std::move(device)),
      stranded_(std::move(stranded)),
      fork_epoch_(ForkEpoch()) {}

DevicePin::~DevicePin() {
  if (inherited()) return;  // the parent has the pin
  const WithoutGil nogil;
  stranded_->TryAgain();
  stranded_->Release(std::move(object_), streams_.empty() ? Streams{nullptr} : streams_, owners_);
}

bool DevicePin::inherited() const { return fork_epoch_ != ForkEpoch(); }

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

absl::Status DevicePin::Release(DeviceStream also) {
  const WithoutGil nogil;
  Streams streams = streams_;
  if (std::find(streams.begin(), streams.end(), also) == streams.end()) streams.push_back(also);
  return object_.ReleaseAfterAll(&streams);
}

}  // namespace infercache::python
