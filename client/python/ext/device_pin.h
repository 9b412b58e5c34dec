// What is in a GPU's memory, shared by all that was made from it, and the streams that use it: a
// pinned object, or room in which one is being written.
//
// Whoever lets go last only says that it gives the GPU nothing more that uses it. What it gave
// before may still run: the memory goes when the streams are done with what they had by then.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <variant>
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

// Room that is not committed, and the parts of what is to be written there.
struct DeviceRoom {
  DeviceReservation reservation;
  std::vector<PartSpec> parts;
};
using DeviceMemory = std::variant<DeviceObject, DeviceRoom>;

// Memory whose streams could not be waited for when it was let go of. One that is being
// captured takes no event: it stays taken; each later get or reservation, and each memory let go
// of, tries them again. One that is no more never will, and what it was given may still run: that
// is never given back by this process, as is what is left at the end; the daemon takes it back when
// the process ends. Thread-safe.
class Stranded {
 public:
  Stranded();
  ~Stranded();
  Stranded(const Stranded&) = delete;
  Stranded& operator=(const Stranded&) = delete;

  // Lets go of the memory once `streams`, which are `owners`', are done, now or later.
  void Release(DeviceMemory memory, Streams streams, SharedOwners owners);
  void TryAgain();

 private:
  struct One {
    DeviceMemory memory;
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
  DevicePin(DeviceMemory memory, std::shared_ptr<const DeviceId> device,
            std::shared_ptr<Stranded> stranded);
  ~DevicePin();
  DevicePin(const DevicePin&) = delete;
  DevicePin& operator=(const DevicePin&) = delete;

  // REQUIRES: it is an object.
  const DeviceObject& object() const { return std::get<DeviceObject>(memory_); }
  // Whether it is room that may be written.
  bool writable() const { return std::holds_alternative<DeviceRoom>(memory_); }
  const std::vector<PartSpec>& parts() const;
  DevicePointer address() const;
  uint64_t size_bytes() const;
  DevicePointer part_address(size_t part) const;  // REQUIRES: part < parts().size()
  const DeviceId& device() const { return *device_; }
  // Whether it is of this process, and not of one that it was forked from.
  bool inherited() const;

  // As DeviceObject's.
  absl::Status CheckNotCapturing(DeviceStream stream) const;
  // `stream` is waited for as well. If nobody names one, the legacy default stream is, which
  // itself waits for all streams of the context but those that were made non-blocking.
  void UsedBy(DeviceStream stream);
  // The same of a stream that `owner`, or nobody (none), destroys. With the GIL.
  void UsedBy(DeviceStream stream, nanobind::handle owner);
  // For the last owner, who wants to hear of an error: then nothing has changed.
  absl::Status Release(DeviceStream also);
  // For the last owner of rooms: commits them when all that UsedBy named, and `also`, are done.
  // They are taken unless that was an error of theirs: see Device::Commit and committed().
  static std::vector<PutResult> Commit(std::span<const std::shared_ptr<DevicePin>> rooms,
                                       Device& device, DeviceStream also, const CallOptions& call);
  // REQUIRES: it is room.
  bool committed() const { return !std::get<DeviceRoom>(memory_).reservation; }

 private:
  void AddStreamsTo(Streams* streams) const;

  DeviceMemory memory_;
  const std::shared_ptr<const DeviceId> device_;
  const std::shared_ptr<Stranded> stranded_;
  const uint64_t fork_epoch_;
  std::mutex mu_;
  Streams streams_;
  const SharedOwners owners_ = std::make_shared<StreamOwners>();
};

using SharedPin = std::shared_ptr<DevicePin>;

}  // namespace infercache::python
