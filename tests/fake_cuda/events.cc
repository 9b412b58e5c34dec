#include "tests/fake_cuda/events.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "tests/fake_cuda/calls.h"

namespace infercache::fake_cuda {
namespace {

// Shared with streams, which may come to it after it was destroyed.
class FakeEvent {
 public:
  using Clock = std::chrono::steady_clock;

  // Which time it is recorded.
  uint64_t Begin() {
    const std::lock_guard lock(mu_);
    reached_.reset();
    return ++recorded_;
  }
  // Unless it was recorded somewhere else meanwhile.
  void Reach(uint64_t time) {
    const std::lock_guard lock(mu_);
    if (time != recorded_) return;
    reached_ = Clock::now();
    changed_.notify_all();
  }
  // At once if it was never recorded.
  void Await() {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [this] { return recorded_ == 0 || reached_.has_value(); });
  }
  bool recorded() {
    const std::lock_guard lock(mu_);
    return recorded_ > 0;
  }
  std::optional<Clock::time_point> reached() {
    const std::lock_guard lock(mu_);
    return reached_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  uint64_t recorded_ = 0;
  std::optional<Clock::time_point> reached_;
};

using Shared = std::shared_ptr<FakeEvent>;

Shared& Of(cuda::Event event) { return *reinterpret_cast<Shared*>(event); }

}  // namespace

Result EventCreate(cuda::Event* event, unsigned flags) {
  if (flags != 0 && flags != cuda::kEventDisableTiming) return cuda::kInvalidValue;
  return With([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    *event = reinterpret_cast<cuda::Event>(new Shared(std::make_shared<FakeEvent>()));
    return cuda::kSuccess;
  });
}

Result EventDestroy(cuda::Event event) {
  if (event == nullptr) return cuda::kInvalidHandle;
  delete &Of(event);
  return cuda::kSuccess;
}

Result EventRecord(cuda::Event event, cuda::Stream stream) {
  if (event == nullptr) return cuda::kInvalidHandle;
  return WithStream(stream, [&](Process& process, FakeStream& on) {
    if (process.state().faults.refuse_records.load() != 0) return cuda::kOutOfMemory;
    const uint64_t time = Of(event)->Begin();
    // Nothing is reached in a context that is dead.
    on.Add([&process, device = on.device(), shared = Of(event), time] {
      if (!process.dead(device)) shared->Reach(time);
    });
    return cuda::kSuccess;
  });
}

Result EventQuery(cuda::Event event) {
  if (event == nullptr) return cuda::kInvalidHandle;
  return With([&](Process& process) {
    if (const Result context = process.CheckContext(); context != cuda::kSuccess) return context;
    if (const Result capture = process.CheckCapture(); capture != cuda::kSuccess) return capture;
    return !Of(event)->recorded() || Of(event)->reached().has_value() ? cuda::kSuccess
                                                                      : cuda::kNotReady;
  });
}

Result EventSynchronize(cuda::Event event) {
  if (event == nullptr) return cuda::kInvalidHandle;
  Of(event)->Await();
  return With([](Process& process) { return process.CheckContext(); });
}

Result EventElapsedTime(float* milliseconds, cuda::Event start, cuda::Event end) {
  if (start == nullptr || end == nullptr || !Of(start)->recorded() || !Of(end)->recorded()) {
    return cuda::kInvalidHandle;
  }
  const auto from = Of(start)->reached(), to = Of(end)->reached();
  if (!from.has_value() || !to.has_value()) return cuda::kNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(*to - *from).count();
  return cuda::kSuccess;
}

}  // namespace infercache::fake_cuda
