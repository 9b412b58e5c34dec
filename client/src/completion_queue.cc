#include "client/src/completion_queue.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace infercache {

absl::StatusOr<std::unique_ptr<CompletionQueue>> CompletionQueue::Create() {
  UniqueFd fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd.valid()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("eventfd: ", absl::ErrnoToStatus(errno, "").message()));
  }
  return std::unique_ptr<CompletionQueue>(new CompletionQueue(std::move(fd)));
}

std::unique_ptr<CompletionQueue> CompletionQueue::WithoutDescriptor() {
  return std::unique_ptr<CompletionQueue>(new CompletionQueue(UniqueFd()));
}

// The descriptor changes under the lock, together with the list: it is readable exactly while the
// list is not empty. The program has it as well, and may have read it: what the calls say is no
// matter.
void CompletionQueue::Push(Completion completion) {
  absl::MutexLock lock(&mu_);
  completions_.push_back(std::move(completion));
  if (completions_.size() == 1) (void)eventfd_write(event_fd_.get(), 1);
}

std::vector<Completion> CompletionQueue::Drain() {
  absl::MutexLock lock(&mu_);
  eventfd_t count = 0;
  if (!completions_.empty()) (void)eventfd_read(event_fd_.get(), &count);
  return std::exchange(completions_, {});
}

}  // namespace infercache
