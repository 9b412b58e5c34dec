#include "client/src/loan_book.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "common/limits.h"

namespace infercache {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMaxRequestBytes = kMaxFrameBytes / 2;

absl::Status Gone(const absl::Status& why) {
  return absl::UnavailableError(absl::StrCat(
      "the daemon that it was lent through is gone, and with it who knows who has it: ",
      why.message()));
}

}  // namespace

std::shared_ptr<LoanBook> LoanBook::Make(std::shared_ptr<LocalConnection> connection) {
  return std::shared_ptr<LoanBook>(new LoanBook(std::move(connection)));
}

LoanBook::LoanBook(std::shared_ptr<LocalConnection> connection)
    : connection_(std::move(connection)) {}

// Most sessions lend and borrow nothing, and have nothing to listen to.
void LoanBook::Listen() {
  MutexLock lock(&listen_mu_);
  if (!std::exchange(listens_, true)) connection_->ListenToLending(weak_from_this());
}

// --- The owner's side ---

std::vector<LoanBook::Lent> LoanBook::Lend(DevicePointer base, Export export_memory,
                                           std::span<const v1::LendItem> items,
                                           LocalDeadline deadline) {
  Listen();
  if (const absl::Status turn = BeginLend(deadline); !turn.ok()) {
    return std::vector<Lent>(items.size(), {.status = turn});
  }
  std::vector<Lent> results;
  results.reserve(items.size());
  while (results.size() < items.size()) {
    v1::Lend lend;
    size_t bytes = 0;
    for (const v1::LendItem& item : items.subspan(results.size())) {
      bytes += item.ByteSizeLong();
      const auto count = static_cast<size_t>(lend.items_size());
      if (count > 0 && (bytes > kMaxRequestBytes || count >= kMaxItemsPerFrame)) break;
      *lend.add_items() = item;
    }
    const auto count = static_cast<size_t>(lend.items_size());
    std::shared_ptr<OwnExport> own;
    LocalAnswer answer = LendSome(base, export_memory, &lend, &own, deadline);
    if (answer.status.ok()) {
      TakeLent(base, lend, answer.response.lent(), std::move(own), &results);
      continue;
    }
    // Whatever was not the daemon's own refusal, an answer that makes no sense included.
    const bool may_be = answer.sent && !answer.status.GetPayload(kStatusDetailsUrl).has_value();
    for (size_t i = 0; i < count; ++i) {
      results.push_back({.status = Unshared(answer.status), .may_be = may_be});
    }
  }
  EndLend();
  return results;
}

absl::Status LoanBook::BeginLend(LocalDeadline deadline) {
  MutexLock lock(&mu_);
  while (lending_) {
    if (!changed_.WaitUntil(&mu_, deadline) && lending_) {
      return absl::DeadlineExceededError("what another thread lends is not answered in time");
    }
  }
  lending_ = true;
  return absl::OkStatus();
}

void LoanBook::EndLend() {
  MutexLock lock(&mu_);
  lending_ = false;
  changed_.SignalAll();
}

LocalAnswer LoanBook::LendSome(DevicePointer base, Export export_memory, v1::Lend* lend,
                               std::shared_ptr<OwnExport>* own, LocalDeadline deadline) {
  {
    MutexLock lock(&mu_);
    const auto it = registered_.find(base);
    if (it != registered_.end()) {
      lend->set_allocation(it->second.allocation);
      *own = it->second.own;
    }
  }
  v1::LocalRequest request;
  LocalAnswer answer;
  if (lend->allocation() != 0) {
    *request.mutable_lend() = *lend;
    answer = connection_->Call(request, deadline);
  }
  // What of the allocation was lent may have been taken back meanwhile, and the daemon have
  // forgotten it.
  if (lend->allocation() == 0 || absl::IsNotFound(answer.status)) {
    auto exported = export_memory();
    if (!exported.ok()) return {.status = exported.status(), .sent = false};
    *own = std::move(exported->own);
    lend->set_allocation(0);
    *request.mutable_lend() = *lend;
    *request.mutable_lend()->mutable_memory() = std::move(exported->memory);
    answer = connection_->Call(request, deadline, std::move(exported->descriptor));
  }
  if (answer.status.ok() && answer.response.lent().items_size() != lend->items_size()) {
    answer.status = BadAnswer(absl::StrCat(answer.response.lent().items_size(), " loans for ",
                                           lend->items_size(), " items"));
  }
  return answer;
}

void LoanBook::TakeLent(DevicePointer base, const v1::Lend& lend, const v1::Lent& lent,
                        std::shared_ptr<OwnExport> own, std::vector<Lent>* results) {
  MutexLock lock(&mu_);
  for (int i = 0; i < lend.items_size(); ++i) {
    const v1::LentItem& item = lent.items(i);
    Lent& result = results->emplace_back();
    if (item.code() != 0) {
      result.status = SaidByDaemon(item.code(), item.message());
      continue;
    }
    result.loan = item.loan();
    own_[item.loan()] = base + lend.items(i).offset();
    Registered& registered = registered_[base];
    registered.allocation = lent.allocation();
    if (over_.ok()) registered.own = own;
    ++registered.loans;
  }
}

size_t LoanBook::TakeBackSome(const std::string& device, std::span<Owned* const> owned,
                              v1::LocalRequest* request) {
  v1::TakeBack& take_back = *request->mutable_take_back();
  take_back.set_device(device);
  size_t count = 0, bytes = 0;
  MutexLock lock(&mu_);
  for (; count < std::min(owned.size(), kMaxItemsPerFrame); ++count) {
    Owned& one = *owned[count];
    bytes += one.key.size();
    if (count > 0 && bytes > kMaxRequestBytes) break;
    take_back.add_keys(one.key);
    if (std::exchange(one.taken_back, true) || one.loan == 0) continue;
    own_.erase(one.loan);
    const auto it = registered_.find(one.base);
    if (it != registered_.end() && --it->second.loans == 0) registered_.erase(it);
  }
  return count;
}

std::vector<absl::Status> LoanBook::TakeBack(const std::string& device,
                                             std::span<Owned* const> owned,
                                             LocalDeadline deadline) {
  std::vector<absl::Status> results(owned.size());
  std::vector<uint64_t> waits(owned.size(), 0);
  for (size_t begin = 0, end = 0; begin < owned.size(); begin = end) {
    v1::LocalRequest request;
    end = begin + TakeBackSome(device, owned.subspan(begin), &request);
    LocalAnswer answer = connection_->Call(request, deadline);
    const v1::TakenBack& taken = answer.response.taken_back();
    if (answer.status.ok() && static_cast<size_t>(taken.items_size()) != end - begin) {
      answer.status = BadAnswer("a word for each key that was taken back");
    }
    for (size_t i = begin; i < end; ++i) {
      if (answer.status.ok()) {
        const v1::TakenBackItem& item = taken.items(static_cast<int>(i - begin));
        if (item.lent()) waits[i] = item.loan();
      } else {
        results[i] = IsOver(answer.status) ? Gone(answer.status) : Unshared(answer.status);
      }
    }
  }
  for (size_t i = 0; i < owned.size(); ++i) {
    if (waits[i] != 0) results[i] = AwaitFree(*owned[i], waits[i], deadline);
    if (!results[i].ok()) continue;
    // What was said by an event that nobody waited for any more.
    MutexLock lock(&mu_);
    free_.erase(owned[i]->loan);
  }
  return results;
}

bool LoanBook::IsOver(const absl::Status& answer) {
  if (connection_->broken()) return true;
  MutexLock lock(&mu_);
  return !over_.ok() || (IsUnreachable(answer) && absl::IsUnavailable(answer));
}

void LoanBook::Abandon(const std::string& device, std::span<Owned* const> owned) {
  while (!owned.empty()) {
    v1::LocalRequest request;
    owned = owned.subspan(TakeBackSome(device, owned, &request));
    connection_->Tell(request);
  }
}

absl::Status LoanBook::AwaitFree(Owned& one, uint64_t loan, LocalDeadline deadline) {
  MutexLock lock(&mu_);
  bool in_time = true;
  while (true) {
    // Whoever sees it first says so to all who wait for the same.
    one.free |= free_.erase(loan) > 0;
    if (one.free) return absl::OkStatus();
    if (!over_.ok()) return Gone(over_);
    if (!in_time) {
      return absl::DeadlineExceededError("somebody still has the tensor, or has it mapped");
    }
    in_time = changed_.WaitUntil(&mu_, deadline);
  }
}

// --- What the daemon says ---

void LoanBook::OnLentEvents(const v1::LentEvents& events) {
  std::vector<std::map<uint64_t, Known>::node_type> gone;
  {
    MutexLock lock(&mu_);
    free_.insert(events.free().begin(), events.free().end());
    for (const uint64_t allocation : events.gone()) {
      if (const auto it = opening_.find(allocation); it != opening_.end()) it->second = true;
      gone.push_back(known_.extract(allocation));
    }
    changed_.SignalAll();
  }
  for (auto& known : gone) Forget(std::move(known));
}

void LoanBook::OnSessionOver(const absl::Status& why) {
  std::map<uint64_t, Known> known;
  {
    MutexLock lock(&mu_);
    over_ = why.ok() ? absl::UnavailableError("the session is over") : Unshared(why);
    for (auto& [allocation, gone] : opening_) gone = true;
    std::swap(known, known_);
    // Its owner may free it, and nobody says so here.
    for (auto& [base, registered] : registered_) registered.own.reset();
    changed_.SignalAll();
  }
  while (!known.empty()) Forget(known.extract(known.begin()));
}

void LoanBook::Forget(std::map<uint64_t, Known>::node_type known) {
  // A mapping says so itself, once nobody holds it.
  if (!known.empty() && known.mapped().mapping == nullptr) {
    ReturnAllocation(*connection_, known.key());
  }
}

}  // namespace infercache
