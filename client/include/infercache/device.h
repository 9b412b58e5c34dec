// File: infercache/device.h
//
// Objects in the memory of a GPU: a tier of the client's namespace that the daemon owns there, so
// that hits cross no bus and outlive the worker that stored them.
//
//   auto gpu = infercache::DeviceUuid(0);            // the GPU that is 0 in this process
//   if (!gpu.ok()) return gpu.status();
//   auto device = client->OpenDevice(*gpu);          // or a UUID as nvidia-smi tells it, or "auto"
//   if (!device.ok()) return device.status();
//   auto got = (*device)->Get("block/42");
//   if (got.hit()) {
//     Launch(kernel, got.object->address(), stream);
//     (void)got.object->ReleaseAfter(stream);   // pinned until the stream is done with it
//   } else {
//     (*device)->Put({.key = "block/42", .source = tensor, .size_bytes = n}, stream);
//   }
//
// A hit is a read of shared memory, as in host memory: neither the daemon nor the driver is called.
// The GPU's memory is mapped once, by the first call that needs it, into the device's primary
// context, the one that CUDA's runtime and PyTorch work in.
//
// Objects in host memory and objects in a GPU's are not the same: what is put here is found here.
// GetInto and GetIntoHost copy from one to the other, and stats() counts it.
//
// A worker may also lend what it has in memory of its own, without copying it anywhere:
//
//   (*device)->Lend({.key = "prefix/7", .source = tensor, .size_bytes = n}, stream);
//   auto got = (*device)->Borrow("prefix/7");    // in another worker
//   (*device)->TakeBack("prefix/7");             // OK: nobody has it: it may be changed, or freed
//
// That needs a daemon, to bring the two together, and no tier. See docs/gpu.md.
//
// Failure: as with the rest of a client, an error is a miss or a refused put with a status that
// says why. NOT_FOUND: the namespace has no tier on this GPU. UNIMPLEMENTED: there is no driver,
// the tier is off, or its memory cannot be shared. Then host memory is what is left.
//
// Thread-safety: a Device as a Client; objects and reservations one thread at a time. A device may
// outlive its client, whose session ends with both; objects and reservations may outlive both.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "infercache/client.h"

namespace infercache {

using DevicePointer = uint64_t;  // a CUdeviceptr, or a pointer that cudaMalloc gave
using DeviceStream = void*;      // a CUstream or cudaStream_t; null = the default stream

// The UUID of a GPU by its number in this process, which CUDA_VISIBLE_DEVICES decides. Another
// process may see another one under that number. UNIMPLEMENTED: no driver; NOT_FOUND.
absl::StatusOr<std::string> DeviceUuid(int ordinal);

class HostStaging;

// An object in a GPU's memory, pinned while this lives: destroy it when the GPU is done with it, or
// say ReleaseAfter. It may be one that another worker lent: then it is in that worker's memory,
// stays mapped here even if that worker dies, and keeps it from being taken back. Writing to it is
// writing to what every other worker reads. Move-only.
class DeviceObject {
 public:
  DeviceObject(DevicePointer address, uint64_t size_bytes, std::vector<PartSpec> parts,
               ObjectInfo info, std::unique_ptr<Object::Storage> pin,
               std::shared_ptr<HostStaging> staging);
  DeviceObject(DeviceObject&&) noexcept;
  DeviceObject& operator=(DeviceObject&&) noexcept;
  ~DeviceObject();

  // All parts back to back, aligned to 256 bytes unless it is lent. 0 once released.
  DevicePointer address() const { return address_; }
  uint64_t size_bytes() const { return size_bytes_; }
  // As Object's.
  const std::vector<PartSpec>& parts() const { return parts_; }
  DevicePointer part_address(size_t i) const;  // REQUIRES: i < parts().size()
  // The GPU's. REQUIRES: not moved from.
  const std::string& uuid() const;
  const ObjectInfo& info() const { return info_; }

  // The pin goes when `stream` is done with what it has to do so far, without anybody waiting; or
  // when its context dies. `stream` may be destroyed as soon as this returns, and not before, as
  // CUDA has it. Nothing more may be given to the GPU that reads the object. After an error
  // nothing has changed.
  // FAILED_PRECONDITION: the stream is being captured for a graph, which a pin cannot be part of.
  absl::Status ReleaseAfter(DeviceStream stream);
  // The same, when the last of them is done; none: now. Takes each stream that the pin waits for
  // out of `streams`. An error leaves those that it does not wait for, the first of which is why:
  // ask again with them, or keep the object.
  absl::Status ReleaseAfterAll(std::vector<DeviceStream>* streams);

  // FAILED_PRECONDITION: `stream` is being captured for a graph, in which nothing is to read the
  // object: it would do so again at every launch, when nothing pins it any more. Or another error
  // of the stream. For whoever hands the address on, to say so before and not after.
  absl::Status CheckNotCapturing(DeviceStream stream) const;

  // Copies `to.size()` bytes from `offset` on into host memory, and returns when they are there.
  // DEADLINE_EXCEEDED: only some are, and no more will be written. UNAVAILABLE: the daemon ended
  // the session meanwhile, and the bytes may be others. REQUIRES: they lie within the object, which
  // is not released.
  absl::Status CopyToHost(uint64_t offset, std::span<std::byte> to,
                          absl::Duration deadline = absl::Seconds(5)) const;

 private:
  DevicePointer address_ = 0;
  uint64_t size_bytes_ = 0;
  std::vector<PartSpec> parts_;
  ObjectInfo info_;
  std::shared_ptr<HostStaging> staging_;
  std::shared_ptr<Object::Storage> pin_;  // shared with the streams that it waits for
};

struct DeviceGetResult {
  absl::Status status = {};  // as in GetResult
  std::optional<DeviceObject> object = {};
  // Of a Borrow that found the tensor and could not open its memory here (`status` says why): what
  // host memory has under the key. No hit: that it is the same is for whoever put it there to see
  // to.
  std::optional<Object> in_host = {};

  bool hit() const { return object.has_value(); }
};

// Room in a GPU's memory for an object that nobody sees until it is committed. Destroying it gives
// the room back: REQUIRES that the GPU does not write there any more; else say AbandonAfter.
// Move-only.
class DeviceReservation {
 public:
  DeviceReservation() = default;
  DeviceReservation(DevicePointer address, uint64_t size_bytes, Reservation room,
                    std::shared_ptr<HostStaging> staging);
  DeviceReservation(DeviceReservation&&) noexcept = default;
  DeviceReservation& operator=(DeviceReservation&&) noexcept = default;

  DevicePointer address() const { return address_; }
  uint64_t size_bytes() const { return size_bytes_; }
  explicit operator bool() const { return room_ != nullptr && static_cast<bool>(*room_); }

  // As DeviceObject's ReleaseAfter and ReleaseAfterAll: the room is given back when the streams are
  // done with what they have to do so far. It is not if their context dies before that, of which
  // nobody says that it writes no more: then the daemon takes it back when this process ends.
  absl::Status AbandonAfter(DeviceStream stream);
  absl::Status AbandonAfterAll(std::vector<DeviceStream>* streams);

  // As DeviceObject's, of a stream that is to write here. REQUIRES: not empty.
  absl::Status CheckNotCapturing(DeviceStream stream) const;

  // For Device: takes the room out.
  Reservation Release();
  // For Device: whether the device that has `staging` made it.
  bool IsOf(const HostStaging& staging) const { return staging_.get() == &staging; }

 private:
  DevicePointer address_ = 0;
  uint64_t size_bytes_ = 0;
  std::shared_ptr<HostStaging> staging_;
  std::shared_ptr<Reservation> room_;  // shared with the streams that it waits for
};

struct DeviceReserveResult {
  absl::Status status = {};
  bool exists = false;  // an object was there and stays: nothing to do
  std::optional<DeviceReservation> reservation = {};
};

// Memory of a GPU, in this process.
struct DevicePiece {
  DevicePointer address = 0;
  uint64_t size_bytes = 0;
};

struct DevicePutItem {
  std::string_view key = {};
  ObjectInfo info = {};
  std::vector<PartSpec> parts = {};  // empty = one part of plain bytes
  DevicePointer source = 0;          // memory of this GPU, in this process
  uint64_t size_bytes = 0;
  bool overwrite = false;
  // Instead of source and size_bytes: what is gathered, in this order.
  std::vector<DevicePiece> pieces = {};
};

// What became of a GetInto: the copy is under way in the stream.
struct DeviceGetIntoResult {
  absl::Status status = {};
  bool hit = false;
  bool from_host = false;  // it was in host memory alone
  uint64_t size_bytes = 0;
};

// Whether a lend puts a copy of the tensor into host memory, in the place of what is there under
// the key, for Client::Get, Device::GetInto and DeviceGetResult::in_host. It is an object like any
// other, which Client::Delete takes away and TakeBack does not know.
enum class HostCopy {
  kNever,
  kFallback,  // if the memory cannot be lent, because it was not allocated to be shared
  kAlways,    // beside lending too, for workers that cannot open what is lent (Borrow)
};

// A tensor of the caller's own memory.
struct LendItem {
  std::string_view key = {};
  ObjectInfo info = {};              // without a TTL: it is there until it is taken back
  std::vector<PartSpec> parts = {};  // empty = one part of plain bytes
  DevicePointer source = 0;          // in one allocation of this GPU, of this process
  uint64_t size_bytes = 0;
  HostCopy host_copy = HostCopy::kNever;
};

struct LendResult {
  absl::Status status = {};  // why it is not lent, or there is no copy where one was asked for
  bool lent = false;         // until TakeBack says OK
  // It is lent, or an error leaves it open whether the daemon heard of it: as long as TakeBack does
  // not say OK, the tensor must be neither changed nor freed. False: nobody will ever find it, and
  // it is the caller's.
  bool may_be_lent = false;
  bool copied_to_host = false;  // LendItem::host_copy
};

// Totals since the device was opened.
struct DeviceStats {
  uint64_t chunks_mapped = 0;  // of the daemon's memory; once a session
  uint64_t mapping_failures = 0;
  uint64_t host_to_device_copies = 0, host_to_device_bytes = 0;
  // By GetIntoHost, and by CopyToHost of this device's objects.
  uint64_t device_to_host_copies = 0, device_to_host_bytes = 0;
  // DeviceOptions::register_host_memory; once for a chunk of the namespace's host memory.
  uint64_t host_chunks_registered = 0, host_registration_failures = 0;
  uint64_t held_for_streams = 0;  // right now

  uint64_t lent = 0;                 // tensors
  uint64_t lent_as_host_copies = 0;  // in place of lending, for want of shareable memory
  uint64_t lend_host_copies = 0, lend_host_copies_bytes = 0;  // those, and HostCopy::kAlways
  uint64_t borrowed = 0;                                      // hits of Borrow
  // Of other workers' allocations; opened once for each and session, not for each Borrow.
  uint64_t allocations_opened = 0;
  uint64_t allocation_failures = 0;  // attempts to open one; what never opens is tried once
  uint64_t borrows_not_opened = 0;   // tensors that Borrow found and has no address of
  uint64_t borrows_from_host = 0, borrows_from_host_bytes = 0;  // of those: in_host
};

struct DeviceOptions {
  // Registers the namespace's host memory with the driver, once for this process, for GetInto of
  // what is only there: copies from it are as fast as the bus then, and take no CPU time. The first
  // of them takes long, since all of a chunk is registered, and a GPU that cannot register what is
  // mapped for reading only goes on without (DeviceStats).
  bool register_host_memory = false;
};

class Device {
 public:
  class Impl;
  explicit Device(std::unique_ptr<Impl> impl);
  // Waits for nothing on the GPU: what is held for a stream stays held until that is done. What is
  // lent is lent no longer, and nobody says when the last one has let go: take it back before.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& uuid() const;
  DeviceStats stats() const;

  DeviceGetResult Get(std::string_view key, const CallOptions& call = {});
  std::vector<DeviceGetResult> Get(std::span<const std::string_view> keys,
                                   const CallOptions& call = {});
  // Copies the object into `destination`, memory of this GPU, in the order of `stream`; it stays
  // pinned until that is done, and counts among what this client may hold until the library has
  // heard so, for which this waits where it needs the room; it does not wait for streams, but where
  // the driver has no memory to mark one with (RESOURCE_EXHAUSTED by the deadline: the object stays
  // pinned for as long as this process lives). What is
  // in host memory alone, or where this client has no tier or cannot map it, is copied from there;
  // after any other error (RESOURCE_EXHAUSTED: it holds too much) it is not, since that might be an
  // older object. It goes through memory of the library's, if it is not registered
  // (DeviceOptions): that waits for streams where there is more than 16 MiB under way.
  // OUT_OF_RANGE, with nothing done, if it is larger than `capacity`.
  DeviceGetIntoResult GetInto(std::string_view key, DevicePointer destination, uint64_t capacity,
                              DeviceStream stream, const CallOptions& call = {});
  // Copies an object of this GPU into host memory, and returns when it is there. What is in host
  // memory alone (see GetInto), as what was moved down is, is copied from there; no GPU has a part
  // in that, and DeviceStats does not count it.
  GetIntoResult GetIntoHost(std::string_view key, std::span<std::byte> destination,
                            const CallOptions& call = {});

  // Copies `source`, once `stream` has done what it has to do so far, and returns when the object
  // is there or refused.
  PutResult Put(const DevicePutItem& item, DeviceStream stream, const CallOptions& call = {});
  // The same of many, for which the daemon is asked twice.
  std::vector<PutResult> Put(std::span<const DevicePutItem> items, DeviceStream stream,
                             const CallOptions& call = {});
  // In place: Reserve, let the GPU write, Commit. Claims are not taken over.
  std::vector<DeviceReserveResult> Reserve(std::span<const ReserveItem> items,
                                           const CallOptions& call = {});
  // Waits until `stream` has done what it has to do so far, then commits. DEADLINE_EXCEEDED: it
  // has not, and the reservations are still the caller's; as after any other error of the stream,
  // and where one of them is another device's (INVALID_ARGUMENT for all). Else they are taken.
  std::vector<PutResult> Commit(std::span<DeviceReservation> reservations, DeviceStream stream,
                                const CallOptions& call = {});
  // The same for all of `streams`.
  std::vector<PutResult> Commit(std::span<DeviceReservation> reservations,
                                std::span<const DeviceStream> streams,
                                const CallOptions& call = {});

  // --- Tensors in workers' own memory ---
  //
  // Only for the namespace's local_writers, on either side: whoever opens another's memory can
  // write to all of the allocation that the tensor lies in. Keys of lent tensors are a set of their
  // own beside the tier's and host memory's, for each GPU and fingerprint.

  // Waits until `stream` has done what it has to do so far, then lends. From then on, and until
  // TakeBack says OK, the tensor must not be changed, and its memory not freed. ALREADY_EXISTS:
  // somebody lends this key already; FAILED_PRECONDITION: this client still takes it back.
  // UNIMPLEMENTED: the memory cannot be shared, or the daemon is too old. After an error that
  // leaves it open whether the daemon heard of it, it may be lent (LendResult::may_be_lent): take
  // it back. If the daemon dies, or its connection is lost, nothing is lent any more.
  LendResult Lend(const LendItem& item, DeviceStream stream, const CallOptions& call = {});
  std::vector<LendResult> Lend(std::span<const LendItem> items, DeviceStream stream,
                               const CallOptions& call = {});
  // As Get, of what others (or this client) lend: one round trip to the daemon. The first Borrow
  // from an allocation opens it, which may take the driver long; after that the driver is not
  // called. FAILED_PRECONDITION: CUDA cannot tell the two processes apart, because their PIDs are
  // the same, each in its own container. Any error is a miss, with what host memory has under the
  // key (DeviceGetResult::in_host) if the tensor was found.
  DeviceGetResult Borrow(std::string_view key, const CallOptions& call = {});
  std::vector<DeviceGetResult> Borrow(std::span<const std::string_view> keys,
                                      const CallOptions& call = {});
  // Nobody finds the keys from here on; waits until nobody has the tensors. One status a key:
  //   OK                 nobody has it. It may be changed; and freed, if nothing else of its
  //                      allocation is lent: then every worker has unmapped that, too.
  //   DEADLINE_EXCEEDED  somebody still has it: it must be neither changed nor freed. Ask again.
  //   NOT_FOUND          this device has not lent it.
  //   UNAVAILABLE        the daemon is gone, and nobody can say who has it. Workers that borrowed
  //                      it let go when they notice and their streams are done. It counts as lent
  //                      no longer; what to do with its memory is the caller's to decide.
  absl::Status TakeBack(std::string_view key, const CallOptions& call = {});
  std::vector<absl::Status> TakeBack(std::span<const std::string_view> keys,
                                     const CallOptions& call = {});

  KeysResult Exists(std::span<const std::string_view> keys, const CallOptions& call = {});
  KeysResult Touch(std::span<const std::string_view> keys, const CallOptions& call = {});
  KeysResult Delete(std::span<const std::string_view> keys, const CallOptions& call = {});
  MatchResult Match(std::span<const std::string_view> keys, const CallOptions& call = {});

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace infercache
