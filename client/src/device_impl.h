// What is behind a Device. Knows no gRPC.

#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/src/arena_chunk.h"
#include "client/src/device_loans.h"
#include "client/src/device_thread.h"
#include "client/src/host_staging.h"
#include "client/src/local_transport.h"
#include "common/cuda/driver.h"
#include "common/cuda/memory.h"
#include "common/mutex.h"
#include "infercache/device.h"

namespace infercache {

class Device::Impl {
 public:
  struct Options {
    LocalTransport::Options lane;          // but for the device
    std::shared_ptr<LocalTransport> host;  // the same in host memory
    absl::Duration deadline;               // of calls that bring none
    bool registers_host_memory = false;
    // A view of the object in host memory, for GetInto and Borrow.
    std::function<GetResult(std::string_view key, const CallOptions& call)> view_in_host;
  };
  // `name` as in Client::OpenDevice, which has the errors.
  static absl::StatusOr<std::unique_ptr<Impl>> Open(Options options, std::string_view name);

  // Made by a parent of this process.
  bool inherited() const { return thread_->inherited(); }
  const std::string& uuid() const { return device_.uuid; }
  DeviceStats stats() const;

  std::vector<DeviceGetResult> Get(std::span<const std::string_view> keys, const CallOptions& call);
  DeviceGetIntoResult GetInto(std::string_view key, DevicePointer destination, uint64_t capacity,
                              cuda::Stream stream, const CallOptions& call);
  GetIntoResult GetIntoHost(std::string_view key, std::span<std::byte> destination,
                            const CallOptions& call);
  std::vector<PutResult> Put(std::span<const DevicePutItem> items, cuda::Stream stream,
                             const CallOptions& call);
  std::vector<DeviceReserveResult> Reserve(std::span<const ReserveItem> items,
                                           const CallOptions& call);
  std::vector<PutResult> Commit(std::span<DeviceReservation> reservations,
                                std::span<const DeviceStream> streams, const CallOptions& call);
  std::vector<LendResult> Lend(std::span<const LendItem> items, cuda::Stream stream,
                               const CallOptions& call);
  std::vector<DeviceGetResult> Borrow(std::span<const std::string_view> keys,
                                      const CallOptions& call);
  std::vector<absl::Status> TakeBack(std::span<const std::string_view> keys,
                                     const CallOptions& call);
  KeysResult Keys(KeysVerb verb, std::span<const std::string_view> keys, const CallOptions& call);
  MatchResult Match(std::span<const std::string_view> keys, const CallOptions& call);

 private:
  Impl(Options options, std::shared_ptr<const cuda::Driver> driver, cuda::DeviceInfo device)
      : options_(std::move(options)), driver_(std::move(driver)), device_(std::move(device)) {}

  // UNAVAILABLE in a forked child; else when the call is to be over.
  absl::StatusOr<absl::Time> DeadlineOf(const CallOptions& call) const;
  // The lane to the tier, which connects when it is first asked for: whoever only lends and borrows
  // needs no tier.
  absl::StatusOr<LocalTransport*> Tier() ABSL_LOCKS_EXCLUDED(connect_mu_);
  // In a chunk of the tier, whose chunks are all mapped when one is first asked for.
  absl::StatusOr<DevicePointer> AddressOf(ArenaChunk& chunk, const LocalPlace& place,
                                          cuda::Mapping::Access access);
  // Pinned in the tier, wherever that is.
  std::vector<GetResult> Pin(std::span<const std::string_view> keys, absl::Time deadline);
  DeviceGetResult OnDevice(GetResult got);
  // For a copy, as Get; waits where it takes the room of what streams are done with by now. Sets
  // *host_may_answer if a miss says that host memory has what there is: the tier has no such
  // object, or this client no tier, or cannot map it. After another error it might have an older
  // one.
  DeviceGetResult Find(std::string_view key, absl::Time deadline, bool* host_may_answer);
  DeviceReserveResult OnDevice(ReserveResult reserved);
  // An asynchronous copy, unless it is one of nothing. `call` names it in errors.
  absl::Status Copy(uint64_t bytes, cuda::Stream stream, absl::string_view call,
                    const std::function<cuda::Result(const cuda::Api&)>& copy);
  // Copies the item's pieces to `to`, one behind the other. *begun is set once the stream may write
  // there.
  absl::Status Gather(const DevicePutItem& item, DevicePointer to, cuda::Stream stream,
                      bool* begun);
  // Nobody gets the rooms before the stream, which may still write there, is done, or dead.
  void KeepUntilDone(std::vector<DeviceReservation> rooms, cuda::Stream stream,
                     absl::Time deadline);
  DeviceGetIntoResult GetIntoFromHost(std::string_view key, DevicePointer destination,
                                      uint64_t capacity, cuda::Stream stream,
                                      const CallOptions& call, const absl::Status& why);

  GetIntoResult GetIntoHostFromHost(std::string_view key, std::span<std::byte> destination,
                                    absl::Time deadline, const absl::Status& why);

  // Whether the GPU may copy from it without a detour.
  bool IsRegistered(const Object::Storage& storage);

  const Options options_;
  const std::shared_ptr<const cuda::Driver> driver_;
  const cuda::DeviceInfo device_;
  std::shared_ptr<DeviceThread> thread_;
  std::shared_ptr<HostStaging> staging_;

  std::atomic<uint64_t> chunks_mapped_{0}, mapping_failures_{0};
  std::atomic<uint64_t> host_to_device_copies_{0}, host_to_device_bytes_{0};
  std::atomic<uint64_t> host_chunks_registered_{0}, host_registration_failures_{0};

  std::unique_ptr<DeviceLoans> loans_;
  Mutex connect_mu_;
  std::atomic<LocalTransport*> tier_{nullptr};  // once it is made
  // Goes first: nothing is under way then.
  std::unique_ptr<LocalTransport> transport_ ABSL_GUARDED_BY(connect_mu_);
};

}  // namespace infercache
