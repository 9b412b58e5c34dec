#include "server/local/lending.h"

#include <sys/socket.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"
#include "server/answers/failure.h"

namespace infercache::local {
namespace {

// A socket could be this daemon's own, and keep a connection open that has ended. Asked without
// fstat, which the file system of a file answers when it likes.
bool IsSocket(const UniqueFd& fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 || errno != ENOTSOCK;
}

absl::Status CheckMemory(const v1::LentMemory& memory, const UniqueFd& descriptor) {
  if (memory.size_bytes() == 0 || memory.size_bytes() > kMaxObjectBytes) {
    return absl::InvalidArgumentError(absl::StrCat("memory.size_bytes: ", memory.size_bytes(),
                                                   "; the limit is ", kMaxObjectBytes));
  }
  switch (memory.kind()) {
    case v1::LentMemory::KIND_LEGACY:
      if (memory.handle().size() == kLegacyHandleBytes && !descriptor.valid()) {
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError(absl::StrCat("memory.handle: ", memory.handle().size(),
                                                     " bytes; a legacy handle has ",
                                                     kLegacyHandleBytes, " and no descriptor"));
    case v1::LentMemory::KIND_DESCRIPTOR:
      if (memory.handle().empty() && descriptor.valid() && !IsSocket(descriptor)) {
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError(
          "memory: lent by a descriptor, it has one beside it that is no socket, and no handle");
    default:
      return absl::InvalidArgumentError(absl::StrCat("memory.kind: ", memory.kind()));
  }
}

absl::Status CheckItem(const v1::LendItem& item, uint64_t allocation_bytes) {
  if (item.key().empty() || item.key().size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("key: ", item.key().size(), " bytes; a key has 1 to ", kMaxKeyBytes));
  }
  ASSIGN_OR_RETURN(const ObjectDescription object, FromProto(item.object()));
  if (object.info.ttl_ms != 0) {
    return absl::InvalidArgumentError("ttl_ms: what is lent is there until it is taken back");
  }
  if (object.size_bytes == 0 || item.offset() > allocation_bytes ||
      object.size_bytes > allocation_bytes - item.offset()) {
    return absl::InvalidArgumentError(absl::StrCat(object.size_bytes, " bytes at ", item.offset(),
                                                   " of an allocation of ", allocation_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Lending::TooMany(absl::string_view what, uint64_t limit, absl::string_view whose) {
  return absl::ResourceExhaustedError(
      absl::StrCat(whose, " has ", limit, " ", what, ", which is the limit"));
}

absl::Status Lending::CheckDevice(const std::string& device) {
  if (!device.empty() && device.size() <= kMaxDeviceNameBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "device: ", device.size(), " bytes; a GPU's UUID has 1 to ", kMaxDeviceNameBytes));
}

std::string Lending::NameOf(const std::string& scope, const std::string& device,
                            const std::string& key) {
  return absl::StrCat(scope, device.size(), ":", device, key);
}

// --- A member ---

Lending::Member::Member(Lending& lending, uint32_t user, std::string scope,
                        std::shared_ptr<Party> party)
    : lending_(lending), scope_(std::move(scope)), id_(lending.Enter(user, std::move(party))) {}
Lending::Member::~Member() { lending_.Leave(id_); }

absl::Status Lending::Member::Lend(const v1::Lend& request, UniqueFd descriptor,
                                   v1::Lent* response) {
  return lending_.Lend(id_, scope_, request, std::move(descriptor), response);
}
void Lending::Member::TakeBack(const v1::TakeBack& request, v1::TakenBack* response) {
  lending_.TakeBack(id_, scope_, request, response);
}
absl::Status Lending::Member::Borrow(const v1::Borrow& request, v1::Borrowed* response) {
  return lending_.Borrow(id_, scope_, request, response);
}
absl::Status Lending::Member::MapLent(const v1::MapLent& request, v1::LentMemory* response,
                                      std::vector<UniqueFd>* descriptors) {
  return lending_.MapLent(id_, request.allocation(), response, descriptors);
}
void Lending::Member::ReturnLent(const v1::ReturnLent& request) {
  lending_.ReturnLent(id_, request);
}
bool Lending::Member::StopLending() { return lending_.StopLending(id_); }

// --- Coming and going ---

uint64_t Lending::Enter(uint32_t user, std::shared_ptr<Party> party) {
  MutexLock lock(&mu_);
  MemberState& state = members_[++last_id_];
  state.user = user;
  state.party = std::move(party);
  return last_id_;
}

bool Lending::StopLending(uint64_t member) {
  Messages messages;
  bool has_something = false;
  {
    MutexLock lock(&mu_);
    MemberState& state = members_.at(member);
    state.party = nullptr;
    News news;
    const std::set<uint64_t> allocations = state.allocations;
    counted_.owner_gone += state.loans.size();
    for (const uint64_t id : allocations) Recall(id, allocations_.at(id), &news);
    for (const auto& [name, loan] : std::map(state.loans)) ForgetLoan(loan);
    for (const uint64_t id : allocations) ForgetAllocation(id);
    has_something = !state.reads.empty();
    messages = Address(std::move(news));
  }
  Send(messages);
  return has_something;
}

void Lending::Leave(uint64_t member) {
  (void)StopLending(member);
  Messages messages;
  {
    MutexLock lock(&mu_);
    MemberState& state = members_.at(member);
    News news;
    for (const uint64_t id : std::set(state.reads)) {
      const Reader has = allocations_.at(id).readers.at(member);
      for (const auto& [loan, times] : has.borrowed) (void)ReturnLoan(member, loan, times, &news);
      Unmap(member, id, has.mapped, &news);
    }
    members_.erase(member);
    messages = Address(std::move(news));
  }
  Send(messages);
}

// --- Lending ---

absl::Status Lending::Lend(uint64_t member, const std::string& scope, const v1::Lend& request,
                           UniqueFd descriptor, v1::Lent* response) {
  uint64_t id = request.allocation();
  if (id == 0) {
    RETURN_IF_ERROR(CheckDevice(request.memory().device()));
    RETURN_IF_ERROR(CheckMemory(request.memory(), descriptor));
  } else if (descriptor.valid()) {
    return absl::InvalidArgumentError("a descriptor of an allocation that is known already");
  }
  MutexLock lock(&mu_);
  if (id == 0) {
    RETURN_IF_ERROR(Register(member, request.memory(), std::move(descriptor), &id));
  } else if (const auto it = allocations_.find(id);
             it == allocations_.end() || it->second.owner != member || it->second.visible == 0) {
    return absl::NotFoundError(
        absl::StrCat("allocation ", id, " is none of this session's of which something is lent"));
  }
  for (const v1::LendItem& item : request.items()) {
    v1::LentItem& lent = *response->add_items();
    uint64_t loan = 0;
    const absl::Status status = LendOne(member, scope, id, item, &loan);
    lent.set_loan(loan);
    if (!status.ok()) SetFailure(status, &lent);
  }
  if (allocations_.at(id).visible == 0) {
    ForgetAllocation(id);
  } else {
    response->set_allocation(id);
  }
  return absl::OkStatus();
}

absl::Status Lending::Register(uint64_t member, const v1::LentMemory& memory, UniqueFd descriptor,
                               uint64_t* allocation) {
  MemberState& state = members_.at(member);
  if (state.allocations.size() >= kMaxLentAllocationsPerSession) {
    return TooMany("lent allocations", kMaxLentAllocationsPerSession, "the session");
  }
  if (allocations_.size() >= kMaxLentAllocations) {
    return TooMany("lent allocations", kMaxLentAllocations, "the daemon");
  }
  *allocation = ++last_id_;
  Allocation& made = allocations_[last_id_];
  made.owner = member;
  made.memory = memory;
  made.memory.DiscardUnknownFields();  // whose bytes nothing counts
  made.descriptor = std::move(descriptor);
  state.allocations.insert(last_id_);
  return absl::OkStatus();
}

absl::Status Lending::LendOne(uint64_t member, const std::string& scope, uint64_t allocation,
                              const v1::LendItem& item, uint64_t* loan) {
  Allocation& of = allocations_.at(allocation);
  MemberState& state = members_.at(member);
  RETURN_IF_ERROR(CheckItem(item, of.memory.size_bytes()));
  std::string name = NameOf(scope, of.memory.device(), item.key());
  if (visible_.contains(name)) return absl::AlreadyExistsError("somebody lends this key already");
  if (state.loans.contains(name)) {
    return absl::FailedPreconditionError("the session is still taking this key back");
  }
  if (state.loans.size() >= kMaxLoansPerSession) {
    return TooMany("loans", kMaxLoansPerSession, "the session");
  }
  const size_t bytes = item.ByteSizeLong() + 2 * name.size() + kLoanOverheadBytes;
  if (state.table_bytes + bytes > kMaxLoanTableBytesPerSession) {
    return TooMany("bytes of keys and parts", kMaxLoanTableBytesPerSession, "the session");
  }
  if (table_bytes_ + bytes > kMaxLoanTableBytes) {
    return TooMany("bytes of keys and parts", kMaxLoanTableBytes, "the daemon");
  }
  state.table_bytes += bytes;
  table_bytes_ += bytes;
  *loan = ++last_id_;
  state.loans.emplace(name, *loan);
  visible_.emplace(name, *loan);
  ++of.visible;
  ++counted_.lent;
  counted_.bytes += item.object().size_bytes();
  loans_[*loan] = {
      .allocation = allocation, .name = std::move(name), .item = item, .table_bytes = bytes};
  return absl::OkStatus();
}

void Lending::TakeBack(uint64_t member, const std::string& scope, const v1::TakeBack& request,
                       v1::TakenBack* response) {
  Messages messages;
  {
    MutexLock lock(&mu_);
    MemberState& state = members_.at(member);
    News news;
    std::set<uint64_t> touched;
    for (const std::string& key : request.keys()) {
      const uint64_t of = TakeBackOne(state, NameOf(scope, request.device(), key), &news);
      if (of != 0) touched.insert(of);
    }
    // Said in the answer, not by events: only loans of this request can be free now.
    News freed;
    for (const uint64_t id : touched) counted_.taken_back_at_once += Settle(id, &freed);
    for (const std::string& key : request.keys()) {
      v1::TakenBackItem& item = *response->add_items();
      const auto it = state.loans.find(NameOf(scope, request.device(), key));
      if (it == state.loans.end()) continue;
      item.set_lent(true);
      item.set_loan(it->second);
    }
    messages = Address(std::move(news));
  }
  Send(messages);
}

uint64_t Lending::TakeBackOne(MemberState& member, const std::string& name, News* news) {
  const auto it = member.loans.find(name);
  if (it == member.loans.end()) return 0;
  Loan& loan = loans_.at(it->second);
  if (loan.taken_back) return 0;
  loan.taken_back = std::chrono::steady_clock::now();
  waiting_.emplace(*loan.taken_back, it->second);
  Allocation& allocation = allocations_.at(loan.allocation);
  visible_.erase(name);
  ++allocation.waiting;
  if (loan.borrowed == 0) allocation.idle.insert(it->second);
  if (--allocation.visible == 0) Recall(loan.allocation, allocation, news);
  return loan.allocation;
}

void Lending::Recall(uint64_t id, const Allocation& allocation, News* news) {
  for (const auto& [member, reader] : allocation.readers) {
    if (reader.mapped > 0) (*news)[member].add_gone(id);
  }
}

uint64_t Lending::Settle(uint64_t allocation, News* news) {
  Allocation& of = allocations_.at(allocation);
  uint64_t freed = 0;
  if (of.visible > 0 || of.mapped == 0) {
    for (const uint64_t loan : std::set(of.idle)) {
      (*news)[of.owner].add_free(loan);
      ForgetLoan(loan);
      ++freed;
    }
  }
  if (of.visible == 0 && of.waiting == 0) ForgetAllocation(allocation);
  return freed;
}

void Lending::ForgetLoan(uint64_t loan) {
  const auto it = loans_.find(loan);
  const Loan& gone = it->second;
  Allocation& of = allocations_.at(gone.allocation);
  if (gone.taken_back) {
    --of.waiting;
    waiting_.erase({*gone.taken_back, loan});
    of.idle.erase(loan);
  } else {
    visible_.erase(gone.name);
    --of.visible;
  }
  MemberState& owner = members_.at(of.owner);
  owner.table_bytes -= gone.table_bytes;
  table_bytes_ -= gone.table_bytes;
  counted_.bytes -= gone.item.object().size_bytes();
  counted_.borrowed -= gone.borrowed;
  owner.loans.erase(gone.name);
  loans_.erase(it);
}

void Lending::ForgetAllocation(uint64_t allocation) {
  const auto it = allocations_.find(allocation);
  // Only the end of its owner forgets what readers have.
  for (const auto& [member, reader] : it->second.readers) {
    MemberState& state = members_.at(member);
    state.reads.erase(allocation);
    CountBorrowed(state, -static_cast<ptrdiff_t>(reader.borrowed.size()));
  }
  members_.at(it->second.owner).allocations.erase(allocation);
  allocations_.erase(it);
}

// --- Telling ---

Lending::Messages Lending::Address(News news) const {
  Messages messages;
  for (auto& [member, events] : news) {
    const auto it = members_.find(member);
    if (it == members_.end() || it->second.party == nullptr) continue;
    messages.emplace_back(it->second.party, std::move(events));
  }
  return messages;
}

void Lending::Send(const Messages& messages) {
  for (const auto& [party, events] : messages) party->OnLentEvents(events);
}

LendingStats Lending::stats() const {
  MutexLock lock(&mu_);
  LendingStats stats = counted_;
  stats.loans = loans_.size();
  stats.allocations = allocations_.size();
  for (const auto& [id, member] : members_) {
    if (!member.reads.empty()) ++stats.readers;
  }
  stats.waiting = waiting_.size();
  if (!waiting_.empty()) {
    const auto waited = std::chrono::steady_clock::now() - waiting_.begin()->first;
    stats.longest_wait_ms = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(waited).count());
  }
  for (const auto& [id, allocation] : allocations_) stats.mapped += allocation.mapped;
  return stats;
}

}  // namespace infercache::local
