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
  if (state.borrowed.size() + found.size() > kMaxBorrowedPerSession) {
    return TooMany("borrowed tensors", kMaxBorrowedPerSession, "the session");
  }
  for (const uint64_t loan : found) {
    v1::BorrowedItem& item = *response->add_items();
    ++(loan != 0 ? counted_.borrows_found : counted_.borrows_not_found);
    if (loan == 0) continue;
    Loan& lent = loans_.at(loan);
    ++lent.borrowed;
    ++state.borrowed[loan];
    ++allocations_.at(lent.allocation).readers[member].borrowed;
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
  members_.at(member).mapped.insert(allocation);
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
  MemberState& state = members_.at(member);
  const auto it = state.borrowed.find(loan);
  if (it == state.borrowed.end()) return false;
  Loan& returned = loans_.at(loan);
  const uint64_t allocation = returned.allocation;
  Allocation& of = allocations_.at(allocation);
  Reader& reader = of.readers.at(member);
  times = std::min(times, it->second);
  if ((it->second -= times) == 0) state.borrowed.erase(it);
  returned.borrowed -= times;
  if (returned.borrowed == 0 && returned.taken_back) of.idle.insert(loan);
  reader.borrowed -= times;
  if (reader.borrowed == 0 && reader.mapped == 0) of.readers.erase(member);
  counted_.taken_back_after_wait += Settle(allocation, news);
  return true;
}

void Lending::Unmap(uint64_t member, uint64_t allocation, uint32_t times, News* news) {
  MemberState& state = members_.at(member);
  if (!state.mapped.contains(allocation)) return;
  Allocation& of = allocations_.at(allocation);
  Reader& reader = of.readers.at(member);
  times = std::min(times, reader.mapped);
  of.mapped -= times;
  if ((reader.mapped -= times) == 0) state.mapped.erase(allocation);
  if (reader.borrowed == 0 && reader.mapped == 0) of.readers.erase(member);
  counted_.taken_back_after_wait += Settle(allocation, news);
}

}  // namespace infercache::local
