#include "client/python/ext/device_pin.h"

#include <algorithm>
#include <utility>

#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/without_gil.h"

namespace infercache::python {

Stranded::Stranded() : fork_epoch_(ForkEpoch()) {}

Stranded::~Stranded() {
  if (fork_epoch_ == ForkEpoch()) {
    const WithoutGil nogil;
    TryAgain();
  }
  // Unpinned they might be overwritten while the GPU reads them.
  for (One& one : all_) new DeviceObject(std::move(one.object));
}

void Stranded::Add(DeviceObject object, Streams streams) {
  const std::lock_guard lock(mu_);
  all_.push_back({std::move(object), std::move(streams)});
}

void Stranded::TryAgain() {
  std::vector<One> some;
  {
    const std::lock_guard lock(mu_);
    some.swap(all_);
  }
  std::erase_if(some, [](One& one) { return one.object.ReleaseAfter(one.streams).ok(); });
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
  Streams streams = streams_.empty() ? Streams{nullptr} : streams_;
  absl::Status status = object_.ReleaseAfter(streams);
  if (absl::IsInvalidArgument(status)) {
    // One of them is no more. Its work may still run: the default stream is after that of most.
    streams = {nullptr};
    status = object_.ReleaseAfter(streams);
  }
  if (!status.ok()) stranded_->Add(std::move(object_), std::move(streams));
}

bool DevicePin::inherited() const { return fork_epoch_ != ForkEpoch(); }

void DevicePin::UsedBy(DeviceStream stream) {
  const std::lock_guard lock(mu_);
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end()) {
    streams_.push_back(stream);
  }
}

absl::Status DevicePin::Release(DeviceStream also) {
  const WithoutGil nogil;
  Streams streams = streams_;
  if (std::find(streams.begin(), streams.end(), also) == streams.end()) streams.push_back(also);
  return object_.ReleaseAfter(streams);
}

}  // namespace infercache::python
