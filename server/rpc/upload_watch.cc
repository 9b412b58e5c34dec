#include "server/rpc/upload_watch.h"

#include <algorithm>

namespace infercache::rpc {

UploadWatch::Entry::Entry(UploadWatch& watch, grpc::CallbackServerContext& context)
    : watch_(watch), context_(context) {
  absl::MutexLock lock(&watch_.mu_);
  deadline_ = std::chrono::steady_clock::now() + watch_.timeout_;
  position_ = watch_.entries_.insert(watch_.entries_.end(), this);
}

UploadWatch::Entry::~Entry() {
  absl::MutexLock lock(&watch_.mu_);
  watch_.entries_.erase(position_);
}

void UploadWatch::Entry::Progress() {
  absl::MutexLock lock(&watch_.mu_);
  deadline_ = std::min(end_, std::chrono::steady_clock::now() + watch_.timeout_);
}

void UploadWatch::Entry::Expect(uint64_t bytes) {
  absl::MutexLock lock(&watch_.mu_);
  end_ = started_ + watch_.timeout_ * (1 + bytes / watch_.timeout_bytes_);
  deadline_ = std::min(end_, deadline_);
}

void UploadWatch::CancelStalled(TimePoint now) {
  absl::MutexLock lock(&mu_);
  for (Entry* entry : entries_) {
    if (entry->deadline_ <= now) entry->context_.TryCancel();
  }
}

}  // namespace infercache::rpc
