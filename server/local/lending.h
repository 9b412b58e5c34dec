// Tensors in clients' own GPU memory that they lend each other: which there are, who has them, and
// who has mapped the allocations they lie in. The daemon hands handles on and never opens one.
//
//   key ──► loan ──► allocation ──► owner
//             │           │
//        taken back?   readers: what they borrowed, how often they mapped it
//
// A loan is visible from Lend to TakeBack or to the end of its owner's session. One that was taken
// back is free once no reader has it and, if nothing of its allocation is visible any more, once no
// reader has that mapped: readers are told then to unmap it. A reader that is over while its
// process may still use what it has mapped keeps its place (Member::StopLending) until it is
// destroyed.
//
// Thread-safe. Outlives its members.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"
#include "server/local/lending_stats.h"

namespace infercache::local {

class Lending {
 public:
  // A session, as it is told of what others did. Called on any thread, without locks.
  class Party {
   public:
    virtual ~Party() = default;
    virtual void OnLentEvents(const v1::LentEvents& events) = 0;
  };

  // A session's part in it. Destruction ends its loans and returns what it has borrowed. Not
  // thread-safe.
  class Member {
   public:
    // `scope` names the namespace and the fingerprint: keys of different ones never meet. `user` is
    // the client's.
    Member(Lending& lending, uint32_t user, std::string scope, std::shared_ptr<Party> party);
    ~Member();
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

    // The verbs of local.proto. REQUIRES: keys of legal length, at most kMaxItemsPerFrame.
    // INVALID_ARGUMENT, NOT_FOUND (no such allocation) or RESOURCE_EXHAUSTED of the whole request.
    absl::Status Lend(const v1::Lend& request, UniqueFd descriptor, v1::Lent* response);
    void TakeBack(const v1::TakeBack& request, v1::TakenBack* response);
    // RESOURCE_EXHAUSTED: nothing is borrowed then.
    absl::Status Borrow(const v1::Borrow& request, v1::Borrowed* response);
    // NOT_FOUND: the session has nothing of it, or it is about to be freed.
    absl::Status MapLent(const v1::MapLent& request, v1::LentMemory* response,
                         std::vector<UniqueFd>* descriptors);
    void ReturnLent(const v1::ReturnLent& request);

    // Its loans end, and it hears no more. True: there is something that it has borrowed or mapped.
    bool StopLending();

   private:
    Lending& lending_;
    const std::string scope_;
    const uint64_t id_;
  };

  LendingStats stats() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Reader {
    std::unordered_map<uint64_t, uint64_t> borrowed;  // loans of the allocation, and how often
    uint32_t mapped = 0;
  };
  // Without a visible loan it is only waited for: nothing more is lent of it, and nobody maps it.
  struct Allocation {
    uint64_t owner = 0;
    v1::LentMemory memory;
    UniqueFd descriptor;
    uint64_t visible = 0;                // loans
    uint64_t mapped = 0;                 // by all readers together
    uint64_t waiting = 0;                // loans that were taken back
    std::set<uint64_t> idle;             // those of them that no reader has
    std::map<uint64_t, Reader> readers;  // by member
  };
  struct Loan {
    uint64_t allocation = 0;
    std::string name;
    v1::LendItem item;
    uint64_t borrowed = 0;  // by all readers together
    std::optional<TimePoint> taken_back = {};
    size_t table_bytes = 0;
  };
  struct MemberState {
    uint32_t user = 0;
    std::shared_ptr<Party> party;           // null: it hears no more
    std::map<std::string, uint64_t> loans;  // its own, by name
    std::set<uint64_t> allocations;         // its own
    std::set<uint64_t> reads;               // allocations that it is a reader of
    size_t borrowed = 0;                    // loans of these
    size_t table_bytes = 0;
  };
  using News = std::map<uint64_t, v1::LentEvents>;  // by member
  // What is told once no lock is held.
  using Messages = std::vector<std::pair<std::shared_ptr<Party>, v1::LentEvents>>;

  static absl::Status TooMany(absl::string_view what, uint64_t limit, absl::string_view whose);
  static absl::Status CheckDevice(const std::string& device);
  // What a key is known by: no two scopes, devices and keys make the same.
  static std::string NameOf(const std::string& scope, const std::string& device,
                            const std::string& key);

  uint64_t Enter(uint32_t user, std::shared_ptr<Party> party) ABSL_LOCKS_EXCLUDED(mu_);
  void Leave(uint64_t member) ABSL_LOCKS_EXCLUDED(mu_);
  bool StopLending(uint64_t member) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Lend(uint64_t member, const std::string& scope, const v1::Lend& request,
                    UniqueFd descriptor, v1::Lent* response) ABSL_LOCKS_EXCLUDED(mu_);
  void TakeBack(uint64_t member, const std::string& scope, const v1::TakeBack& request,
                v1::TakenBack* response) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Borrow(uint64_t member, const std::string& scope, const v1::Borrow& request,
                      v1::Borrowed* response) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status MapLent(uint64_t member, uint64_t allocation, v1::LentMemory* response,
                       std::vector<UniqueFd>* descriptors) ABSL_LOCKS_EXCLUDED(mu_);
  void ReturnLent(uint64_t member, const v1::ReturnLent& request) ABSL_LOCKS_EXCLUDED(mu_);

  absl::Status Register(uint64_t member, const v1::LentMemory& memory, UniqueFd descriptor,
                        uint64_t* allocation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status LendOne(uint64_t member, const std::string& scope, uint64_t allocation,
                       const v1::LendItem& item, uint64_t* loan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The allocation it was of; 0 = there is no such loan.
  uint64_t TakeBackOne(MemberState& member, const std::string& name, News* news)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // RESOURCE_EXHAUSTED: the member, its user or all together would have too many loans.
  absl::Status CheckBorrows(const MemberState& member, size_t more)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The member has borrowed so many loans more (or fewer).
  void CountBorrowed(MemberState& member, ptrdiff_t loans) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The member is no reader of it any more if it has nothing of it.
  void DropIfIdle(uint64_t member, uint64_t allocation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // False: it does not have it.
  bool ReturnLoan(uint64_t member, uint64_t loan, uint64_t times, News* news)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Unmap(uint64_t member, uint64_t allocation, uint32_t times, News* news)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Readers that have mapped it are told to unmap it.
  void Recall(uint64_t id, const Allocation& allocation, News* news)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Forgets what of it is free, and tells its owner. Returns how many loans.
  uint64_t Settle(uint64_t allocation, News* news) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ForgetLoan(uint64_t loan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ForgetAllocation(uint64_t allocation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Messages Address(News news) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void Send(const Messages& messages);

  mutable Mutex mu_;
  uint64_t last_id_ ABSL_GUARDED_BY(mu_) = 0;  // of members, allocations and loans
  std::unordered_map<uint64_t, MemberState> members_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<uint64_t, Allocation> allocations_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<uint64_t, Loan> loans_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<std::string, uint64_t> visible_ ABSL_GUARDED_BY(mu_);  // loans, by name
  std::set<std::pair<TimePoint, uint64_t>> waiting_ ABSL_GUARDED_BY(mu_);   // loans taken back
  size_t table_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  size_t borrowed_ ABSL_GUARDED_BY(mu_) = 0;  // loans, by all readers together
  std::map<uint32_t, size_t> borrowed_by_user_ ABSL_GUARDED_BY(mu_);
  LendingStats counted_ ABSL_GUARDED_BY(mu_);  // bytes, borrowed, and all totals
};

}  // namespace infercache::local
