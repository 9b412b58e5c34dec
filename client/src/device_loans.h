// What a device lends and borrows, through the session that its client has in host memory. Knows no
// gRPC. Thread-safe.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/src/device_thread.h"
#include "client/src/host_staging.h"
#include "client/src/loan_book.h"
#include "client/src/local_transport.h"
#include "common/cuda/driver.h"
#include "common/cuda/ipc.h"
#include "common/mutex.h"
#include "infercache/device.h"

namespace infercache {

class DeviceLoans {
 public:
  using ViewInHost = std::function<GetResult(std::string_view key, const CallOptions& call)>;
  DeviceLoans(const cuda::DeviceInfo& device, std::shared_ptr<HostStaging> staging,
              std::shared_ptr<LocalTransport> host, ViewInHost view_in_host)
      : device_(device),
        staging_(std::move(staging)),
        thread_(staging_->thread()),
        host_(std::move(host)),
        view_in_host_(std::move(view_in_host)) {}

  ~DeviceLoans();
  DeviceLoans(const DeviceLoans&) = delete;
  DeviceLoans& operator=(const DeviceLoans&) = delete;

  // As Device's; what a Lend is to wait for has come to its end.
  std::vector<LendResult> Lend(std::span<const LendItem> items, absl::Time deadline);
  std::vector<DeviceGetResult> Borrow(std::span<const std::string_view> keys, absl::Time deadline);
  std::vector<absl::Status> TakeBack(std::span<const std::string_view> keys, absl::Time deadline);

  void AddTo(DeviceStats* stats) const;

 private:
  struct Lent {
    std::shared_ptr<LoanBook> book;
    LoanBook::Owned owned;
  };
  // Of one allocation: which items, and what the daemon is told of them.
  struct Group {
    cuda::AddressRange range;
    std::vector<size_t> indexes;
    std::vector<v1::LendItem> items;
  };

  // The book of a session that takes new work.
  absl::StatusOr<std::shared_ptr<LoanBook>> OpenBook(absl::Time deadline);
  // Into the group of its allocation.
  absl::Status Sort(const LendItem& item, size_t index,
                    std::map<DevicePointer, Group>* groups) const;
  absl::StatusOr<LoanBook::Exported> Export(const cuda::AddressRange& range) const;
  void LendGroup(const std::shared_ptr<LoanBook>& book, const Group& group, absl::Time deadline,
                 std::span<LendResult> results) ABSL_LOCKS_EXCLUDED(mu_);
  void CopyToHost(const LendItem& item, absl::Time deadline, LendResult* result);
  DeviceGetResult Take(std::string_view key, LoanBook::Borrowed borrowed, absl::Time deadline);

  const cuda::DeviceInfo device_;
  const std::shared_ptr<HostStaging> staging_;
  const std::shared_ptr<DeviceThread> thread_;
  const std::shared_ptr<LocalTransport> host_;
  const ViewInHost view_in_host_;

  std::atomic<uint64_t> lent_{0}, lent_as_host_copies_{0}, host_copies_{0}, host_copies_bytes_{0};
  std::atomic<uint64_t> borrowed_{0}, opened_{0}, failures_{0};
  std::atomic<uint64_t> not_opened_{0}, from_host_{0}, from_host_bytes_{0};

  Mutex mu_;
  // By key; one that is lent again after its daemon went away replaces what it was.
  std::map<std::string, std::shared_ptr<Lent>, std::less<>> mine_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
