#include "client/src/device_loans.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"

namespace infercache {
namespace {

// What of a batch goes into one request.
constexpr size_t kMaxBorrowedAtOnce = 512;

}  // namespace

DeviceLoans::~DeviceLoans() {
  std::map<std::shared_ptr<LoanBook>, std::vector<LoanBook::Owned*>> by_book;
  {
    MutexLock lock(&mu_);
    for (const auto& [key, lent] : mine_) by_book[lent->book].push_back(&lent->owned);
  }
  for (const auto& [book, owned] : by_book) book->Abandon(device_.uuid, owned);
}

absl::StatusOr<std::shared_ptr<LoanBook>> DeviceLoans::OpenBook(absl::Time deadline) {
  const LocalLink::Opened opened =
      host_->link().Await(/*wait_for_daemon=*/false, SteadyDeadline(deadline));
  if (opened.session == nullptr) return opened.status;
  if (opened.session->loans() != nullptr) return opened.session->loans();
  return absl::UnimplementedError("the daemon is too old to bring those together that lend");
}

// --- Lending ---

absl::Status DeviceLoans::Sort(const LendItem& item, size_t index,
                               std::map<DevicePointer, Group>* groups) const {
  ASSIGN_OR_RETURN(const cuda::AddressRange range,
                   cuda::FindRange(thread_->context(), device_.ordinal, item.source));
  if (item.size_bytes == 0 || !range.Contains(item.source, item.size_bytes)) {
    // Several allocations that lie side by side, as PyTorch's expandable segments do?
    const DevicePointer last = item.source + item.size_bytes - 1;
    if (last > item.source && cuda::FindRange(thread_->context(), device_.ordinal, last).ok()) {
      return absl::UnimplementedError(
          "the tensor lies in several allocations (PyTorch's expandable segments?), and is lent as "
          "a part of one");
    }
    return absl::InvalidArgumentError(absl::StrCat(item.size_bytes, " bytes at ",
                                                   item.source - range.base,
                                                   " of an allocation of ", range.bytes));
  }
  v1::LendItem message;
  message.set_key(item.key.data(), item.key.size());
  message.set_offset(item.source - range.base);
  ToProto(item.info, message.mutable_object()->mutable_info());
  message.mutable_object()->set_size_bytes(item.size_bytes);
  ToProto(item.parts, message.mutable_object()->mutable_parts());
  Group& group = (*groups)[range.base];
  group.range = range;
  group.indexes.push_back(index);
  group.items.push_back(std::move(message));
  return absl::OkStatus();
}

absl::StatusOr<LoanBook::Exported> DeviceLoans::Export(const cuda::AddressRange& range) const {
  ASSIGN_OR_RETURN(cuda::ExportedMemory memory, cuda::ExportMemory(thread_->context(), range));
  LoanBook::Exported exported;
  exported.memory.set_device(device_.uuid);
  exported.memory.set_size_bytes(range.bytes);
  exported.memory.set_pid(static_cast<uint64_t>(getpid()));
  if (memory.descriptor.valid()) {
    exported.memory.set_kind(v1::LentMemory::KIND_DESCRIPTOR);
    exported.descriptor = std::move(memory.descriptor);
  } else {
    exported.memory.set_kind(v1::LentMemory::KIND_LEGACY);
    exported.memory.set_handle(memory.handle.bytes, sizeof memory.handle.bytes);
    exported.own = std::make_shared<OwnExport>(exported.memory.handle(), range);
  }
  return exported;
}

std::vector<LendResult> DeviceLoans::Lend(std::span<const LendItem> items, absl::Time deadline) {
  std::vector<LendResult> results(items.size());
  const auto book = OpenBook(deadline);
  std::map<DevicePointer, Group> groups;
  for (size_t i = 0; i < items.size(); ++i) {
    results[i].status = book.ok() ? Sort(items[i], i, &groups) : book.status();
  }
  for (const auto& [base, group] : groups) LendGroup(*book, group, deadline, results);
  for (size_t i = 0; i < items.size(); ++i) {
    const bool fallback = absl::IsUnimplemented(results[i].status);
    if (items[i].host_copy == HostCopy::kNever || !(fallback || results[i].lent)) continue;
    if (fallback || items[i].host_copy == HostCopy::kAlways) {
      CopyToHost(items[i], deadline, &results[i]);
    }
  }
  return results;
}

void DeviceLoans::LendGroup(const std::shared_ptr<LoanBook>& book, const Group& group,
                            absl::Time deadline, std::span<LendResult> results) {
  const auto lent = book->Lend(
      group.range.base, [&] { return Export(group.range); }, group.items, SteadyDeadline(deadline));
  for (size_t i = 0; i < lent.size(); ++i) {
    LendResult& result = results[group.indexes[i]];
    result.status = lent[i].status;
    result.may_be_lent = lent[i].loan != 0 || lent[i].may_be;
    if (!result.may_be_lent) continue;
    if (lent[i].loan != 0) {
      result.lent = true;
      lent_.fetch_add(1);
    }
    auto record = std::make_shared<Lent>(
        Lent{book, {.key = group.items[i].key(), .base = group.range.base, .loan = lent[i].loan}});
    MutexLock lock(&mu_);
    std::shared_ptr<Lent>& mine = mine_[group.items[i].key()];
    // Of a loan that may be, what is known already is known better; but not of an earlier daemon's.
    if (lent[i].loan != 0 || mine == nullptr || mine->book != book) mine = std::move(record);
  }
}

void DeviceLoans::CopyToHost(const LendItem& item, absl::Time deadline, LendResult* result) {
  std::vector<std::byte> bytes(item.size_bytes);
  // After its deadline the caller may free the tensor, once what is begun is done: as with Put.
  result->status =
      staging_->CopyToHost(item.source, bytes, /*source=*/nullptr, SteadyDeadline(deadline));
  if (!result->status.ok()) return;
  // Of this tensor, whatever was lent or put under the key before.
  const PutItem put = {
      .key = item.key, .info = item.info, .parts = item.parts, .value = {bytes}, .overwrite = true};
  Reached reached = Reached::kNotAsked;
  result->status = host_->PutNow({&put, 1}, deadline, &reached)[0].status;
  if (!result->status.ok()) return;
  result->copied_to_host = true;
  if (!result->lent) lent_as_host_copies_.fetch_add(1);
  host_copies_.fetch_add(1);
  host_copies_bytes_.fetch_add(item.size_bytes);
}

std::vector<absl::Status> DeviceLoans::TakeBack(std::span<const std::string_view> keys,
                                                absl::Time deadline) {
  std::vector<absl::Status> results(
      keys.size(), absl::NotFoundError("this device has not lent the key, or has it back"));
  std::map<std::shared_ptr<LoanBook>, std::vector<size_t>> by_book;
  std::vector<std::shared_ptr<Lent>> records(keys.size());
  {
    MutexLock lock(&mu_);
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto it = mine_.find(keys[i]);
      if (it == mine_.end()) continue;
      records[i] = it->second;
      by_book[it->second->book].push_back(i);
    }
  }
  for (const auto& [book, indexes] : by_book) {
    std::vector<LoanBook::Owned*> owned;
    for (const size_t i : indexes) owned.push_back(&records[i]->owned);
    const auto taken = book->TakeBack(device_.uuid, owned, SteadyDeadline(deadline));
    for (size_t i = 0; i < indexes.size(); ++i) results[indexes[i]] = taken[i];
  }
  MutexLock lock(&mu_);
  for (size_t i = 0; i < keys.size(); ++i) {
    // What is back, or nobody can say of any more.
    if (records[i] == nullptr || !(results[i].ok() || absl::IsUnavailable(results[i]))) continue;
    const auto it = mine_.find(keys[i]);
    if (it != mine_.end() && it->second == records[i]) mine_.erase(it);
  }
  return results;
}

// --- Borrowing ---

DeviceGetResult DeviceLoans::Take(std::string_view key, LoanBook::Borrowed borrowed,
                                  absl::Time deadline) {
  DeviceGetResult result{.status = std::move(borrowed.status)};
  if (borrowed.pin == nullptr) {
    if (!borrowed.found) return result;
    not_opened_.fetch_add(1);
    // Beside the error, and not in place of it: nobody says that it is the same object.
    result.in_host = view_in_host_(key, {.deadline = deadline - absl::Now()}).object;
    if (!result.in_host.has_value()) return result;
    from_host_.fetch_add(1);
    from_host_bytes_.fetch_add(result.in_host->bytes().size());
    return result;
  }
  borrowed_.fetch_add(1);
  result.object.emplace(borrowed.address, borrowed.object.size_bytes,
                        std::move(borrowed.object.parts), std::move(borrowed.object.info),
                        std::move(borrowed.pin), staging_);
  return result;
}

std::vector<DeviceGetResult> DeviceLoans::Borrow(std::span<const std::string_view> keys,
                                                 absl::Time deadline) {
  std::vector<DeviceGetResult> results;
  results.reserve(keys.size());
  const auto book = OpenBook(deadline);
  const auto open = [this, &book](const v1::LentMemory& memory, const UniqueFd& descriptor,
                                  bool* never) {
    auto mapping = LentMapping::Open(memory, descriptor, device_.ordinal, thread_,
                                     (*book)->connection(), never);
    if (!mapping.ok()) {
      failures_.fetch_add(1);
    } else if (!(*mapping)->is_own()) {
      opened_.fetch_add(1);
    }
    return mapping;
  };
  while (results.size() < keys.size()) {
    const auto some = keys.subspan(results.size())
                          .first(std::min(keys.size() - results.size(), kMaxBorrowedAtOnce));
    if (!book.ok()) {
      for (size_t i = 0; i < some.size(); ++i) results.push_back({.status = book.status()});
      continue;
    }
    auto borrowed = (*book)->Borrow(device_.uuid, some, open, SteadyDeadline(deadline));
    for (size_t i = 0; i < some.size(); ++i) {
      results.push_back(Take(some[i], std::move(borrowed[i]), deadline));
    }
  }
  return results;
}

void DeviceLoans::AddTo(DeviceStats* stats) const {
  stats->lent = lent_.load();
  stats->lent_as_host_copies = lent_as_host_copies_.load();
  stats->lend_host_copies = host_copies_.load();
  stats->lend_host_copies_bytes = host_copies_bytes_.load();
  stats->borrowed = borrowed_.load();
  stats->allocations_opened = opened_.load();
  stats->allocation_failures = failures_.load();
  stats->borrows_not_opened = not_opened_.load();
  stats->borrows_from_host = from_host_.load();
  stats->borrows_from_host_bytes = from_host_bytes_.load();
}

}  // namespace infercache
