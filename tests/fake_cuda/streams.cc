// Contexts and streams.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "tests/fake_cuda/process.h"

namespace infercache::fake_cuda {
namespace {

// At most a moment, so that a stream that is destroyed meanwhile notices.
void WaitWhileStuck(std::atomic<uint32_t>& stuck) {
  const timespec moment = {0, 20'000'000};
  syscall(SYS_futex, &stuck, FUTEX_WAIT, 1, &moment, nullptr, 0);
}

}  // namespace

void WaitWhile(std::atomic<uint32_t>& stuck) {
  while (stuck.load() != 0) WaitWhileStuck(stuck);
}

FakeStream::~FakeStream() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
    queue_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

void FakeStream::Add(std::function<void()> work) {
  {
    const std::lock_guard lock(mu_);
    queue_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void FakeStream::Synchronize() {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
}

bool FakeStream::idle() {
  const std::lock_guard lock(mu_);
  return queue_.empty() && !busy_;
}

void FakeStream::Run() {
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    if (faults_.streams_stuck.load() != 0) {
      lock.unlock();
      WaitWhileStuck(faults_.streams_stuck);
      lock.lock();
      continue;
    }
    const std::function<void()> work = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    work();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

Result Process::RetainContext(uint32_t device) {
  const std::lock_guard lock(mu_);
  if (contexts_[device]++ > 0) return cuda::kSuccess;
  dead_.fetch_and(~(uint32_t{1} << device));  // a new one
  state().calls.contexts.fetch_add(1);
  return file_->Hold(Kind::kContext, device, 0, 0) ? cuda::kSuccess : cuda::kOutOfMemory;
}

Result Process::ReleaseContext(uint32_t device) {
  std::vector<std::unique_ptr<FakeStream>> gone;  // under no lock
  const std::lock_guard lock(mu_);
  if (contexts_[device] == 0) return cuda::kInvalidContext;
  if (--contexts_[device] > 0) return cuda::kSuccess;
  file_->LetGo(Kind::kContext, device, 0);
  std::erase_if(registered_, [device](const auto& one) { return one.second.device == device; });
  for (auto& [number, stream] : default_streams_) {
    if (number == device) gone.push_back(std::move(stream));
  }
  default_streams_.erase(device);
  for (auto& [raw, stream] : streams_) {
    if (raw->device() == device) gone.push_back(std::move(stream));
  }
  std::erase_if(streams_, [](const auto& one) { return one.second == nullptr; });
  for (auto& stream : destroyed_) {
    if (stream->device() == device) gone.push_back(std::move(stream));
  }
  std::erase(destroyed_, nullptr);
  return cuda::kSuccess;
}

Result Process::CheckContext() {
  if (CurrentContexts().empty()) return cuda::kInvalidContext;
  return dead(CurrentContexts().back()) ? cuda::kIllegalAddress : cuda::kSuccess;
}

Result Process::CheckCapture() {
  if (state().faults.global_capture.load() == 0) return cuda::kSuccess;
  if (CaptureMode() == cuda::kCaptureModeRelaxed) {
    state().calls.captures_left_alone.fetch_add(1);
    return cuda::kSuccess;
  }
  state().calls.captures_broken.fetch_add(1);
  return cuda::kStreamCaptureUnsupported;
}

FakeStream* Process::NewStream() {
  auto stream = std::make_unique<FakeStream>(state().faults, CurrentContexts().back());
  FakeStream* const raw = stream.get();
  const std::lock_guard lock(mu_);
  streams_[raw] = std::move(stream);
  return raw;
}

FakeStream* Process::FindStream(cuda::Stream stream) {
  const std::lock_guard lock(mu_);
  if (stream == nullptr) {
    const uint32_t device = CurrentContexts().back();
    std::unique_ptr<FakeStream>& found = default_streams_[device];
    if (found == nullptr) found = std::make_unique<FakeStream>(state().faults, device);
    return found.get();
  }
  const auto it = streams_.find(reinterpret_cast<FakeStream*>(stream));
  return it == streams_.end() ? nullptr : it->first;
}

Result Process::DestroyStream(cuda::Stream stream) {
  const std::lock_guard lock(mu_);
  const auto it = streams_.find(reinterpret_cast<FakeStream*>(stream));
  if (it == streams_.end()) return cuda::kInvalidHandle;
  // It does what it was given before.
  std::erase_if(destroyed_, [](const auto& one) { return one->idle(); });
  destroyed_.push_back(std::move(it->second));
  streams_.erase(it);
  return cuda::kSuccess;
}

}  // namespace infercache::fake_cuda
