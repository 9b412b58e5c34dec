#include "server/local/loans.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache::local {
namespace {

// A namespace by its address: one that is deleted and made again under its name is another one, and
// lives as long as a session in it.
std::string ScopeOf(const store::Namespace& ns, const Hash128& fingerprint) {
  return absl::StrCat(reinterpret_cast<uintptr_t>(&ns), ":", fingerprint.hi, ":", fingerprint.lo,
                      ":");
}

}  // namespace

void Loans::Party::Open(std::function<void()> wake) {
  MutexLock lock(&mu_);
  wake_ = std::move(wake);
}

void Loans::Party::Close() {
  MutexLock lock(&mu_);
  wake_ = nullptr;
  events_.Clear();
}

bool Loans::Party::Take(v1::LentEvents* events) {
  MutexLock lock(&mu_);
  events->Swap(&events_);
  events_.Clear();
  return events->free_size() + events->gone_size() > 0;
}

void Loans::Party::OnLentEvents(const v1::LentEvents& events) {
  // Under the lock, so that nothing is posted to a server that is gone.
  MutexLock lock(&mu_);
  if (!wake_) return;
  const bool first = events_.free_size() + events_.gone_size() == 0;
  events_.MergeFrom(events);
  if (first) wake_();
}

Loans::Loans(Host& host, uint32_t user, const store::Namespace& ns, const Hash128& fingerprint,
             bool allowed)
    : host_(host),
      user_(user),
      namespace_(ns),
      scope_(ScopeOf(ns, fingerprint)),
      allowed_(allowed) {}

Loans::~Loans() { party_->Close(); }

Lending::Member& Loans::member() {
  if (member_ == nullptr) {
    member_ = std::make_unique<Lending::Member>(host_.lending, user_, scope_, party_);
  }
  return *member_;
}

absl::Status Loans::CheckAllowed() const {
  if (allowed_) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("this session may not write in place to the host memory of namespace ",
                   namespace_.spec().name,
                   ", and whoever opens lent memory can write to it: its local_writers decides"));
}

absl::Status Loans::CheckLends() const {
  RETURN_IF_ERROR(CheckAllowed());
  RETURN_IF_ERROR(host_.CheckTakesWork());
  return namespace_.closed() ? absl::UnavailableError("the namespace is deleted")
                             : absl::OkStatus();
}

absl::Status Loans::Counted(absl::Status status) const {
  if (!status.ok()) {
    Count(host_.counters.lending_refused[static_cast<size_t>(WhyRefused(status.code()))]);
  }
  return status;
}

absl::Status Loans::Lend(const v1::Lend& request, UniqueFd descriptor, v1::Lent* response) {
  RETURN_IF_ERROR(Counted(CheckLends()));
  RETURN_IF_ERROR(Counted(member().Lend(request, std::move(descriptor), response)));
  for (const v1::LentItem& item : response->items()) {
    (void)Counted(absl::Status(static_cast<absl::StatusCode>(item.code()), ""));
  }
  return absl::OkStatus();
}

absl::Status Loans::TakeBack(const v1::TakeBack& request, v1::TakenBack* response) {
  RETURN_IF_ERROR(Counted(CheckAllowed()));
  member().TakeBack(request, response);
  return absl::OkStatus();
}

absl::Status Loans::Borrow(const v1::Borrow& request, v1::Borrowed* response) {
  RETURN_IF_ERROR(Counted(CheckAllowed()));
  return Counted(member().Borrow(request, response));
}

absl::Status Loans::MapLent(const v1::MapLent& request, v1::LentMemory* response,
                            std::vector<UniqueFd>* descriptors) {
  RETURN_IF_ERROR(Counted(CheckAllowed()));
  return Counted(member().MapLent(request, response, descriptors));
}

void Loans::ReturnLent(const v1::ReturnLent& request) {
  if (member_ != nullptr) member_->ReturnLent(request);
}

std::unique_ptr<Lending::Member> Loans::TakeBorrowed() {
  party_->Close();
  if (member_ == nullptr || !member_->StopLending()) return nullptr;
  return std::move(member_);
}

}  // namespace infercache::local
