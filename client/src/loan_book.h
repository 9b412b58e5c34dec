// What one session lends and has borrowed: tensors in workers' own GPU memory.
//
// An allocation is opened with the first tensor that is borrowed of it and stays so, whatever is
// borrowed and returned, until the daemon says that nothing of it is lent any more, or the session
// is over; then it is unmapped as soon as no pin holds it. So it is known by what the daemon calls
// it, within the session: handles' bytes may come to mean something else.
//
// Held by whatever was borrowed through it, and holds its connection. Thread-safe.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/fork_guard.h"
#include "client/src/lent_mapping.h"
#include "client/src/local_connection.h"
#include "client/src/own_export.h"
#include "common/mutex.h"
#include "convert/types.h"
#include "infercache/device.h"

namespace infercache {

class LoanBook final : public LendingListener, public std::enable_shared_from_this<LoanBook> {
 public:
  static std::shared_ptr<LoanBook> Make(std::shared_ptr<LocalConnection> connection);
  LoanBook(const LoanBook&) = delete;
  LoanBook& operator=(const LoanBook&) = delete;

  // --- The owner's side ---

  struct Lent {
    absl::Status status = {};
    uint64_t loan = 0;
    bool may_be = false;  // it is not known whether the daemon heard of it
  };
  // What to share an allocation by, asked for unless the daemon knows it.
  struct Exported {
    v1::LentMemory memory;
    UniqueFd descriptor;
    std::shared_ptr<OwnExport> own = {};  // null: other clients of this process open it as well
  };
  using Export = absl::FunctionRef<absl::StatusOr<Exported>()>;
  // Of the allocation at `base`, with offsets in it. One result an item.
  std::vector<Lent> Lend(DevicePointer base, Export export_memory,
                         std::span<const v1::LendItem> items, LocalDeadline deadline)
      ABSL_LOCKS_EXCLUDED(mu_);

  struct Owned {
    std::string key;
    DevicePointer base = 0;  // of its allocation
    uint64_t loan = 0;       // 0 = unknown
    bool taken_back = false;
    bool free = false;  // as the daemon said to whoever waited first
  };
  // OK, DEADLINE_EXCEEDED, UNAVAILABLE, for each; the same may be there more than once, and be
  // waited for by several threads. Sets `taken_back` and `free`, under a lock of the book's.
  std::vector<absl::Status> TakeBack(const std::string& device, std::span<Owned* const> owned,
                                     LocalDeadline deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // The same, and nobody waits to hear who has it.
  void Abandon(const std::string& device, std::span<Owned* const> owned) ABSL_LOCKS_EXCLUDED(mu_);

  // --- The reader's side ---

  struct Borrowed {
    absl::Status status = {};
    DevicePointer address = 0;
    ObjectDescription object = {};
    std::unique_ptr<Object::Storage> pin = {};  // null: a miss
    bool found =
        false;  // with a null pin: it is lent, and `status` says why it has no address here
  };
  // As LentMapping::Open.
  using Open = absl::FunctionRef<absl::StatusOr<std::shared_ptr<LentMapping>>(
      const v1::LentMemory& memory, const UniqueFd& descriptor, bool* never)>;
  // One result a key. REQUIRES: at most kMaxItemsPerFrame keys.
  std::vector<Borrowed> Borrow(const std::string& device, std::span<const std::string_view> keys,
                               Open open, LocalDeadline deadline) ABSL_LOCKS_EXCLUDED(mu_);

  // LendingListener.
  void OnLentEvents(const v1::LentEvents& events) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnSessionOver(const absl::Status& why) override ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<LocalConnection>& connection() const { return connection_; }
  bool inherited() const { return guard_.inherited(); }

 private:
  // An allocation of which something is lent, as the daemon knows it.
  struct Registered {
    uint64_t allocation = 0;
    uint64_t loans = 0;
    std::shared_ptr<OwnExport> own = {};
  };
  // Null and a status: it does not open here, and is not tried again.
  struct Known {
    std::shared_ptr<LentMapping> mapping;
    absl::Status why_not;
  };

  explicit LoanBook(std::shared_ptr<LocalConnection> connection);

  // It listens when this returns, whoever began.
  void Listen() ABSL_LOCKS_EXCLUDED(listen_mu_);
  // One Lend at a time, so that one descriptor at a time is under way. DEADLINE_EXCEEDED: another
  // thread's is not answered; after OK, EndLend follows.
  absl::Status BeginLend(LocalDeadline deadline) ABSL_LOCKS_EXCLUDED(mu_);
  void EndLend() ABSL_LOCKS_EXCLUDED(mu_);
  // One request; names the allocation in `lend`. *own: what it was exported as, now or before; it
  // may have been forgotten meanwhile, with the last loan of the allocation but these.
  LocalAnswer LendSome(DevicePointer base, Export export_memory, v1::Lend* lend,
                       std::shared_ptr<OwnExport>* own, LocalDeadline deadline)
      ABSL_LOCKS_EXCLUDED(mu_);
  void TakeLent(DevicePointer base, const v1::Lend& lend, const v1::Lent& lent,
                std::shared_ptr<OwnExport> own, std::vector<Lent>* results)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Asks for some of `owned`, and notes that they are lent no longer. Returns how many.
  size_t TakeBackSome(const std::string& device, std::span<Owned* const> owned,
                      v1::LocalRequest* request) ABSL_LOCKS_EXCLUDED(mu_);
  // After `answer`: what the connection was about is not known, and never will be.
  bool IsOver(const absl::Status& answer) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status AwaitFree(Owned& one, uint64_t loan, LocalDeadline deadline)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The mapping that a borrowed tensor lies in.
  absl::StatusOr<std::shared_ptr<LentMapping>> MappingOf(uint64_t allocation, Open open,
                                                         LocalDeadline deadline)
      ABSL_LOCKS_EXCLUDED(mu_);
  // What is known of it. Nothing: it is the caller's to open, and everybody else's to wait for,
  // each until his own deadline, until the caller takes it out of opening_.
  absl::StatusOr<Known> AwaitKnown(uint64_t allocation, LocalDeadline deadline)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Asks for its handle, and opens that. Sets *has_handle if the daemon counts it as mapped from
  // there on.
  absl::StatusOr<std::shared_ptr<LentMapping>> OpenAllocation(uint64_t allocation, Open open,
                                                              LocalDeadline deadline,
                                                              bool* has_handle, bool* never);
  void TakeBorrowed(const v1::BorrowedItem& item, Open open, LocalDeadline deadline,
                    Borrowed* result) ABSL_LOCKS_EXCLUDED(mu_);
  // Drops it, or what is known of why there is none.
  void Forget(std::map<uint64_t, Known>::node_type known);

  const ForkGuard guard_;
  const std::shared_ptr<LocalConnection> connection_;

  // Held while it begins to listen. Before LocalConnection's.
  Mutex listen_mu_;
  bool listens_ ABSL_GUARDED_BY(listen_mu_) = false;

  Mutex mu_;
  CondVar changed_;
  absl::Status over_ ABSL_GUARDED_BY(mu_);
  std::map<DevicePointer, Registered> registered_ ABSL_GUARDED_BY(mu_);  // by base
  std::map<uint64_t, DevicePointer> own_ ABSL_GUARDED_BY(mu_);           // loans: where they lie
  std::set<uint64_t> free_ ABSL_GUARDED_BY(mu_);          // own loans of which the daemon said so
  std::map<uint64_t, Known> known_ ABSL_GUARDED_BY(mu_);  // by allocation
  bool lending_ ABSL_GUARDED_BY(mu_) = false;             // a Lend is under way
  // Allocations that are being opened: whether they are gone meanwhile.
  std::map<uint64_t, bool> opening_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
