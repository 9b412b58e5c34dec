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

  void Begin() {
    const std::lock_guard lock(mu_);
    recorded_ = true;
    reached_.reset();
  }
  void Reach() {
    const std::lock_guard lock(mu_);
    reached_ = Clock::now();
    changed_.notify_all();
  }
  // At once if it was never recorded.
  void Await() {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [this] { return !recorded_ || reached_.has_value(); });
  }
  bool recorded() {
    const std::lock_guard lock(mu_);
    return recorded_;
  }
  std::optional<Clock::time_point> reached() {
    const std::lock_guard lock(mu_);
    return reached_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  bool recorded_ = false;
  std::optional<Clock::time_point> reached_;
};

using Shared = std::shared_ptr<FakeEvent>;

Shared& Of(cuda::Event event) { return *reinterpret_cast<Shared*>(event); }

}  // namespace

Result EventCreate(cuda::Event* event, unsigned flags) {
  if (flags != 0) return cuda::kInvalidValue;
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
  return WithStream(stream, [&](Process&, FakeStream& on) {
    Of(event)->Begin();
    on.Add([shared = Of(event)] { shared->Reach(); });
    return cuda::kSuccess;
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
