// What readers do with what others lend.

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/duplicate_fd.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/local/host.h"
#include "server/local/lending.h"

namespace infercache::local {

absl::Status Lending::CheckBorrows(const MemberState& member, size_t more) {
  constexpr absl::string_view kWhat = "borrowed tensors";
  if (member.borrowed + more > kMaxBorrowedPerSession) {
    return TooMany(kWhat, kMaxBorrowedPerSession, "the session");
  }
  const auto user = borrowed_by_user_.find(member.user);
  if (user != borrowed_by_user_.end() && user->second + more > kMaxBorrowedPerUser) {
    return TooMany(kWhat, kMaxBorrowedPerUser, absl::StrCat("user ", member.user));
  }
  if (borrowed_ + more > kMaxBorrowed) return TooMany(kWhat, kMaxBorrowed, "the daemon");
  return absl::OkStatus();
}

void Lending::CountBorrowed(MemberState& member, ptrdiff_t loans) {
  if (loans == 0) return;
  const auto more = static_cast<size_t>(loans);  // or fewer, modulo 2^64
  member.borrowed += more;
  borrowed_ += more;
  const auto user = borrowed_by_user_.try_emplace(member.user).first;
  if ((user->second += more) == 0) borrowed_by_user_.erase(user);
}

void Lending::DropIfIdle(uint64_t member, uint64_t allocation) {
  Allocation& of = allocations_.at(allocation);
  const auto reader = of.readers.find(member);
  if (!reader->second.borrowed.empty() || reader->second.mapped > 0) return;
  of.readers.erase(reader);
  members_.at(member).reads.erase(allocation);
}

absl::Status Lending::Borrow(uint64_t member, const std::string& scope, const v1::Borrow& request,
                             v1::Borrowed* response) {
  RETURN_IF_ERROR(CheckDevice(request.device()));
  MutexLock lock(&mu_);
  MemberState& state = members_.at(member);
  size_t answer_bytes = 0;
  std::vector<uint64_t> found(static_cast<size_t>(request.keys_size()));
  for (size_t i = 0; i < found.size(); ++i) {
    const auto it =
        visible_.find(NameOf(scope, request.device(), request.keys(static_cast<int>(i))));
    if (it == visible_.end()) continue;
    found[i] = it->second;
    answer_bytes += loans_.at(it->second).item.ByteSizeLong();
  }
  // Each item has a few numbers beside its object.
  if (answer_bytes + found.size() * 64 > kMaxFrameBytes - 4096) {
    return absl::ResourceExhaustedError(
        "the answer does not fit a frame: ask for fewer keys at once");
  }
  RETURN_IF_ERROR(CheckBorrows(state, found.size()));
  for (const uint64_t loan : found) {
    v1::BorrowedItem& item = *response->add_items();
    ++(loan != 0 ? counted_.borrows_found : counted_.borrows_not_found);
    if (loan == 0) continue;
    Loan& lent = loans_.at(loan);
    ++lent.borrowed;
    ++counted_.borrowed;
    state.reads.insert(lent.allocation);
    uint64_t& times = allocations_.at(lent.allocation).readers[member].borrowed[loan];
    if (times++ == 0) CountBorrowed(state, 1);
    item.set_loan(loan);
    item.set_allocation(lent.allocation);
    item.set_offset(lent.item.offset());
    *item.mutable_object() = lent.item.object();
  }
  return absl::OkStatus();
}

absl::Status Lending::MapLent(uint64_t member, uint64_t allocation, v1::LentMemory* response,
                              std::vector<UniqueFd>* descriptors) {
  MutexLock lock(&mu_);
  const auto it = allocations_.find(allocation);
  if (it == allocations_.end() || it->second.visible == 0 || !it->second.readers.contains(member)) {
    return absl::NotFoundError(absl::StrCat("allocation ", allocation,
                                            ": this session has borrowed nothing of it, or its "
                                            "owner takes it back"));
  }
  Allocation& of = it->second;
  Reader& reader = of.readers.at(member);
  if (reader.mapped >= kMaxMapsPerAllocation) {
    return TooMany("mappings of the allocation", kMaxMapsPerAllocation, "the session");
  }
  if (of.descriptor.valid()) {
    ASSIGN_OR_RETURN(UniqueFd copy, Duplicate(of.descriptor.get()));
    descriptors->emplace_back(copy.Release(), of.descriptor.closer());
  }
  ++reader.mapped;
  ++of.mapped;
  *response = of.memory;
  response->set_allocation(allocation);
  response->set_owner_user(members_.at(of.owner).user);
  response->set_session_user(members_.at(member).user);
  return absl::OkStatus();
}

void Lending::ReturnLent(uint64_t member, const v1::ReturnLent& request) {
  Messages messages;
  {
    MutexLock lock(&mu_);
    News news;
    std::multiset<uint64_t> not_opened(request.not_opened().begin(), request.not_opened().end());
    for (const uint64_t loan : request.loans()) {
      if (!ReturnLoan(member, loan, 1, &news)) continue;
      const auto it = not_opened.find(loan);
      if (it == not_opened.end()) continue;
      not_opened.erase(it);
      ++counted_.borrows_not_opened;
    }
    for (const uint64_t allocation : request.allocations()) Unmap(member, allocation, 1, &news);
    messages = Address(std::move(news));
  }
  Send(messages);
}

bool Lending::ReturnLoan(uint64_t member, uint64_t loan, uint64_t times, News* news) {
  const auto found = loans_.find(loan);
  if (found == loans_.end()) return false;
  Loan& returned = found->second;
  const uint64_t allocation = returned.allocation;
  Allocation& of = allocations_.at(allocation);
  const auto reader = of.readers.find(member);
  if (reader == of.readers.end()) return false;
  auto& borrowed = reader->second.borrowed;
  const auto it = borrowed.find(loan);
  if (it == borrowed.end()) return false;
  times = std::min(times, it->second);
  if ((it->second -= times) == 0) {
    borrowed.erase(it);
    CountBorrowed(members_.at(member), -1);
  }
  returned.borrowed -= times;
  counted_.borrowed -= times;
  if (returned.borrowed == 0 && returned.taken_back) of.idle.insert(loan);
  DropIfIdle(member, allocation);
  counted_.taken_back_after_wait += Settle(allocation, news);
  return true;
}

void Lending::Unmap(uint64_t member, uint64_t allocation, uint32_t times, News* news) {
  if (!members_.at(member).reads.contains(allocation)) return;
  Allocation& of = allocations_.at(allocation);
  Reader& reader = of.readers.at(member);
  times = std::min(times, reader.mapped);
  of.mapped -= times;
  reader.mapped -= times;
  DropIfIdle(member, allocation);
  counted_.taken_back_after_wait += Settle(allocation, news);
}

}  // namespace infercache::local
