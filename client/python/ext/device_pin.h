// A pinned object of a GPU, shared by all that was made from it, and the streams that use it.
//
// Whoever lets go last only says that it gives the GPU nothing more that reads the object. What it
// gave before may still run: the pin goes when the streams are done with what they had by then.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "infercache/device.h"

namespace infercache::python {

using Streams = std::vector<DeviceStream>;

// Python's objects that streams are of: who names one may forget it, and CUDA knows nothing of a
// stream that was destroyed. Made and added to with the GIL; any thread may destroy it.
class StreamOwners {
 public:
  StreamOwners() = default;
  ~StreamOwners();
  StreamOwners(const StreamOwners&) = delete;
  StreamOwners& operator=(const StreamOwners&) = delete;

  void Add(nanobind::handle owner) { all_.push_back(nanobind::borrow(owner)); }

 private:
  std::vector<nanobind::object> all_;
};
using SharedOwners = std::shared_ptr<StreamOwners>;

// Which GPU, for this process.
struct DeviceId {
  std::string uuid;
  int ordinal = 0;
};

// Objects whose streams could not be waited for when they were let go of. One that is being
// captured takes no event: they stay pinned; each later get, and each object let go of, tries
// them again. One that is no more never will, and what it was given may still run: they are never
// unpinned by this process, as is what is left at the end; the daemon takes it back when the
// process ends. Thread-safe.
class Stranded {
 public:
  Stranded();
  ~Stranded();
  Stranded(const Stranded&) = delete;
  Stranded& operator=(const Stranded&) = delete;

  // Lets go of the object once `streams`, which are `owners`', are done, now or later.
  void Release(DeviceObject object, Streams streams, SharedOwners owners);
  void TryAgain();

 private:
  struct One {
    DeviceObject object;
    Streams streams;
    SharedOwners owners;
  };
  // Whether it is done with: released, or never to be.
  static bool Settle(One& one);
  const uint64_t fork_epoch_;
  std::mutex mu_;
  std::vector<One> all_;
};

// Thread-safe. Any thread may let go of it, with or without the GIL, which is not held meanwhile.
class DevicePin {
 public:
  DevicePin(DeviceObject object, std::shared_ptr<const DeviceId> device,
            std::shared_ptr<Stranded> stranded);
  ~DevicePin();
  DevicePin(const DevicePin&) = delete;
  DevicePin& operator=(const DevicePin&) = delete;

  const DeviceObject& object() const { return object_; }
  const DeviceId& device() const { return *device_; }
  // Whether it is of this process, and not of one that it was forked from.
  bool inherited() const;

  // `stream` is waited for as well. If nobody names one, the legacy default stream is, which
  // itself waits for all streams of the context but those that were made non-blocking.
  void UsedBy(DeviceStream stream);
  // The same of a stream that `owner`, or nobody (none), destroys. With the GIL.
  void UsedBy(DeviceStream stream, nanobind::handle owner);
  // For the last owner, who wants to hear of an error: then nothing has changed.
  absl::Status Release(DeviceStream also);

 private:
  DeviceObject object_;
  const std::shared_ptr<const DeviceId> device_;
  const std::shared_ptr<Stranded> stranded_;
  const uint64_t fork_epoch_;
  std::mutex mu_;
  Streams streams_;
  const SharedOwners owners_ = std::make_shared<StreamOwners>();
};

using SharedPin = std::shared_ptr<DevicePin>;

}  // namespace infercache::python
