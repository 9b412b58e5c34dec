// What is borrowed through a book of loans.

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/loan_book.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

// Returns the tensor when it is destroyed; in a forked child it is the parent's.
class BorrowedPin final : public Object::Storage {
 public:
  BorrowedPin(std::shared_ptr<LoanBook> book, uint64_t loan)
      : book_(std::move(book)), loan_(loan) {}
  ~BorrowedPin() override {
    if (book_->inherited()) return;
    mapping_.reset();
    v1::LocalRequest request;
    request.mutable_return_lent()->add_loans(loan_);
    if (!usable_) request.mutable_return_lent()->add_not_opened(loan_);
    book_->connection()->Tell(request);
  }
  bool zero_copy() const override { return true; }
  void LieIn(std::shared_ptr<LentMapping> mapping) { mapping_ = std::move(mapping); }
  // Before that the daemon is told that its hit was none.
  void BecomeUsable() { usable_ = true; }

 private:
  const std::shared_ptr<LoanBook> book_;
  const uint64_t loan_;
  std::shared_ptr<LentMapping> mapping_;  // null: it is in this process's own memory
  bool usable_ = false;
};

}  // namespace

std::vector<LoanBook::Borrowed> LoanBook::Borrow(const std::string& device,
                                                 std::span<const std::string_view> keys, Open open,
                                                 LocalDeadline deadline) {
  Listen();
  v1::LocalRequest request;
  request.mutable_borrow()->set_device(device);
  for (const std::string_view key : keys) {
    request.mutable_borrow()->add_keys(key.data(), key.size());
  }
  LocalAnswer answer = connection_->Call(request, deadline);
  const v1::Borrowed& borrowed = answer.response.borrowed();
  if (answer.status.ok() && static_cast<size_t>(borrowed.items_size()) != keys.size()) {
    answer.status =
        BadAnswer(absl::StrCat(borrowed.items_size(), " tensors for ", keys.size(), " keys"));
  }
  std::vector<Borrowed> results(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (answer.status.ok()) {
      TakeBorrowed(borrowed.items(static_cast<int>(i)), open, deadline, &results[i]);
    } else {
      results[i].status = Unshared(answer.status);
    }
  }
  return results;
}

void LoanBook::TakeBorrowed(const v1::BorrowedItem& item, Open open, LocalDeadline deadline,
                            Borrowed* result) {
  if (item.loan() == 0) return;
  result->found = true;
  // Whatever goes wrong from here on, it is returned.
  auto pin = std::make_unique<BorrowedPin>(shared_from_this(), item.loan());
  auto object = FromProto(item.object());
  if (!object.ok()) {
    result->status = BadAnswer(object.status().message());
    return;
  }
  {
    // CUDA opens no handle in the process that made it, nor is there a need to.
    MutexLock lock(&mu_);
    const auto own = own_.find(item.loan());
    if (own != own_.end()) result->address = own->second;
  }
  if (result->address == 0) {
    auto mapping = MappingOf(item.allocation(), open, deadline);
    if (!mapping.ok()) {
      result->status = mapping.status();
      return;
    }
    if (item.offset() > (*mapping)->bytes() ||
        object->size_bytes > (*mapping)->bytes() - item.offset()) {
      result->status = BadAnswer(absl::StrCat(object->size_bytes, " bytes at ", item.offset(),
                                              " of ", (*mapping)->bytes()));
      return;
    }
    result->address = (*mapping)->address() + item.offset();
    pin->LieIn(*std::move(mapping));
  }
  pin->BecomeUsable();
  result->object = *std::move(object);
  result->pin = std::move(pin);
}

absl::StatusOr<LoanBook::Known> LoanBook::AwaitKnown(uint64_t allocation, LocalDeadline deadline) {
  MutexLock lock(&mu_);
  while (true) {
    if (!over_.ok()) return Unshared(over_);
    const auto it = known_.find(allocation);
    if (it != known_.end()) return Known{it->second.mapping, Unshared(it->second.why_not)};
    if (opening_.try_emplace(allocation, false).second) return Known();
    if (!changed_.WaitUntil(&mu_, deadline) && opening_.contains(allocation)) {
      return absl::DeadlineExceededError("another thread did not open the tensor's memory in time");
    }
  }
}

absl::StatusOr<std::shared_ptr<LentMapping>> LoanBook::OpenAllocation(
    uint64_t allocation, Open open, LocalDeadline deadline, bool* has_handle, bool* never) {
  v1::LocalRequest request;
  request.mutable_map_lent()->set_allocation(allocation);
  LocalAnswer answer = connection_->Call(request, deadline);
  RETURN_IF_ERROR(answer.status);
  const v1::LentMemory& memory = answer.response.lent_memory();
  if (memory.allocation() != allocation) return BadAnswer("memory of another allocation");
  *has_handle = true;
  return open(memory, answer.descriptors.empty() ? UniqueFd() : std::move(answer.descriptors[0]),
              never);
}

absl::StatusOr<std::shared_ptr<LentMapping>> LoanBook::MappingOf(uint64_t allocation, Open open,
                                                                 LocalDeadline deadline) {
  ASSIGN_OR_RETURN(const Known known, AwaitKnown(allocation, deadline));
  RETURN_IF_ERROR(known.why_not);
  if (known.mapping != nullptr) return known.mapping;
  bool has_handle = false, never = false;
  auto mapping = OpenAllocation(allocation, open, deadline, &has_handle, &never);
  bool keep = mapping.ok() || never;
  {
    MutexLock lock(&mu_);
    const bool gone = opening_.extract(allocation).mapped();
    keep &= !gone;
    if (keep) known_[allocation] = {mapping.ok() ? *mapping : nullptr, Unshared(mapping.status())};
    changed_.SignalAll();
  }
  // A mapping says so itself, once nobody holds it.
  if (has_handle && !keep && !mapping.ok()) ReturnAllocation(*connection_, allocation);
  return mapping;
}

}  // namespace infercache
