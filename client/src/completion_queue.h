// Completions on their way from transports to whoever drains them, with a descriptor to wait on.
// Thread-safe.

#pragma once

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/unique_fd.h"
#include "infercache/client.h"

namespace infercache {

class CompletionQueue {
 public:
  // RESOURCE_EXHAUSTED if the process is out of descriptors.
  static absl::StatusOr<std::unique_ptr<CompletionQueue>> Create();
  // One that nobody can wait for.
  static std::unique_ptr<CompletionQueue> WithoutDescriptor();
  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;

  void Push(Completion completion);
  // Each completion is handed out once, in the order of Push().
  std::vector<Completion> Drain();
  // Readable exactly while Drain() would return something, unless somebody has read it. Owned by
  // the queue. -1 without one.
  int event_fd() const { return event_fd_.get(); }

 private:
  explicit CompletionQueue(UniqueFd event_fd) : event_fd_(std::move(event_fd)) {}

  const UniqueFd event_fd_;

  absl::Mutex mu_;
  std::vector<Completion> completions_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
