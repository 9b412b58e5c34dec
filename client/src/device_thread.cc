#include "client/src/device_thread.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "common/start_thread.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

// What a call answers for ever in a context that a fault has ended, or that is no more. A stream
// that is being captured, of which nothing can be asked, is alive.
bool MeansDead(cuda::Result result) {
  return result != cuda::kSuccess && result != cuda::kNotReady && result != cuda::kInvalidHandle &&
         result != cuda::kInvalidValue && result != cuda::kOutOfMemory &&
         !cuda::IsOfCaptures(result);
}

// How long the thread waits between two looks at streams that are not done: longer each time that
// none is.
constexpr std::chrono::microseconds kFirstPause{50};
constexpr std::chrono::microseconds kLongestPause{2000};

// The same of a thread that waits for one stream; before that it looks again and again, as it takes
// less time than to be woken.
constexpr std::chrono::microseconds kLooks{30};
constexpr std::chrono::microseconds kFirstNap{10};
constexpr std::chrono::microseconds kLongestNap{200};

}  // namespace

std::chrono::steady_clock::time_point SteadyDeadline(absl::Time deadline) {
  const absl::Duration left =
      std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(24));
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left);
}

struct DeviceThread::State {
  struct Waiting {
    cuda::Stream stream = nullptr;
    std::optional<cuda::StreamMark> mark = {};  // none: the driver refused it as of a dead context
    std::unique_ptr<Kept> kept = {};
    bool to_mark = false;  // or for a moment: the stream is there until `kept` is destroyed
  };

  std::atomic<uint64_t> waiting{0};
  Mutex mu;
  CondVar changed;
  bool stop ABSL_GUARDED_BY(mu) = false;
  std::vector<Waiting> added ABSL_GUARDED_BY(mu);
  std::vector<std::unique_ptr<Kept>> to_destroy ABSL_GUARDED_BY(mu);
  bool destroying ABSL_GUARDED_BY(mu) = false;
  std::vector<cuda::StreamMark> spare ABSL_GUARDED_BY(mu);
  // How many looks were asked for, and how many of them have been.
  uint64_t asked ABSL_GUARDED_BY(mu) = 0;
  uint64_t answered ABSL_GUARDED_BY(mu) = 0;

  void GiveBack(cuda::StreamMark mark) {
    MutexLock lock(&mu);
    spare.push_back(std::move(mark));
  }
  // Of `stream` as it is now. What the driver says.
  cuda::Result Mark(const std::shared_ptr<const cuda::PrimaryContext>& context, cuda::Stream stream,
                    std::optional<cuda::StreamMark>* mark) ABSL_LOCKS_EXCLUDED(mu);
  void Add(Waiting one) ABSL_LOCKS_EXCLUDED(mu) {
    MutexLock lock(&mu);
    waiting.fetch_add(1);
    added.push_back(std::move(one));
    changed.SignalAll();
  }
  // The unmapping thread.
  void DestroyUntilStop() ABSL_LOCKS_EXCLUDED(mu);
};

cuda::Result DeviceThread::State::Mark(const std::shared_ptr<const cuda::PrimaryContext>& context,
                                       cuda::Stream stream, std::optional<cuda::StreamMark>* mark) {
  {
    MutexLock lock(&mu);
    if (!spare.empty()) {
      mark->emplace(std::move(spare.back()));
      spare.pop_back();
    }
  }
  if (!mark->has_value()) {
    const cuda::Result made = cuda::StreamMark::Create(context, mark);
    if (made != cuda::kSuccess) return made;
  }
  const cuda::Result recorded = (*mark)->Record(stream);
  if (recorded != cuda::kSuccess) mark->reset();
  return recorded;
}

void DeviceThread::State::DestroyUntilStop() {
  std::vector<std::unique_ptr<Kept>> gone;
  while (true) {
    {
      MutexLock lock(&mu);
      destroying = false;
      while (to_destroy.empty() && !stop) changed.Wait(&mu);
      if (to_destroy.empty()) return;
      destroying = true;
      std::swap(gone, to_destroy);
    }
    gone.clear();
  }
}

// What the thread that looks at streams has. Used by it alone.
class DeviceThread::Worker {
 public:
  Worker(State& state, const std::shared_ptr<const cuda::PrimaryContext>& context)
      : state_(state), context_(context) {}
  void Run();

 private:
  using Queue = std::deque<State::Waiting>;

  // Waits for something to do. False: there will be nothing any more.
  bool Take();
  // Lets go of what streams are done with. Whether there was any.
  bool Look();
  // False: the context is dead.
  bool LookAt(Queue& queue, bool* any);
  bool ContextIsDead();
  void LetAllGo();

  State& state_;
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  std::map<cuda::Stream, Queue> queues_;  // in the order in which each stream comes to its marks
  uint64_t asked_ = 0;
  std::chrono::microseconds pause_ = kFirstPause;
  // To learn whether the context is dead where no mark tells: other streams may be destroyed.
  cuda::Stream own_ = nullptr;
  std::optional<cuda::StreamMark> own_mark_;
};

absl::StatusOr<std::shared_ptr<DeviceThread>> DeviceThread::Start(
    std::shared_ptr<const cuda::PrimaryContext> context) {
  std::shared_ptr<DeviceThread> made(new DeviceThread(std::move(context)));
  ASSIGN_OR_RETURN(made->thread_,
                   StartThread("infercache-gpu", [state = made->state_, kept = made->context_] {
                     Worker(*state, kept).Run();
                     const cuda::CurrentContext current(*kept);
                     MutexLock lock(&state->mu);
                     state->spare.clear();
                   }));
  ASSIGN_OR_RETURN(made->unmapper_,
                   StartThread("infercache-free", [state = made->state_, kept = made->context_] {
                     state->DestroyUntilStop();
                   }));
  return made;
}

DeviceThread::DeviceThread(std::shared_ptr<const cuda::PrimaryContext> context)
    : context_(std::move(context)), state_(std::make_shared<State>()) {}

DeviceThread::~DeviceThread() {
  bool waits = false, unmaps = false;
  if (!inherited()) {
    MutexLock lock(&state_->mu);
    state_->stop = true;
    waits = waiting() > 0;
    unmaps = state_->destroying || !state_->to_destroy.empty();
    state_->changed.SignalAll();
  }
  // Not for a GPU that may never be done; nor from what it destroys itself; nor where it is not.
  const auto end = [this](std::thread& thread, bool busy) {
    if (!thread.joinable()) return;
    if (busy || inherited() || thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  };
  end(thread_, waits);
  end(unmapper_, unmaps);
}

absl::Status DeviceThread::CheckNotCapturing(cuda::Stream stream) const {
  const cuda::CurrentContext current(*context_);
  RETURN_IF_ERROR(current.status());
  const cuda::Driver& driver = context_->driver();
  int capture = 0;
  RETURN_IF_ERROR(
      driver.Check(driver.api().stream_is_capturing(stream, &capture), "cuStreamIsCapturing"));
  if (capture == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the stream is being captured: what is in the cache cannot be part of a graph");
}

absl::Status DeviceThread::KeepUntilDone(cuda::Stream stream, std::unique_ptr<Kept>* kept) {
  // Other errors are of the context, and for the thread to find: what is dead needs nothing.
  if (absl::Status status = CheckNotCapturing(stream); absl::IsFailedPrecondition(status)) {
    return status;
  }
  const cuda::CurrentContext current(*context_);
  State::Waiting waiting{.stream = stream};
  const cuda::Result marked = state_->Mark(context_, stream, &waiting.mark);
  // The context is dead, or the stream alone is no more, which drivers say in the same words. The
  // thread asks a stream of its own: what is kept goes in the first case, and never in the second,
  // in which the GPU may still do what the stream was given.
  if (marked != cuda::kSuccess && !MeansDead(marked)) {
    return context_->driver().Check(marked, "cuEventRecord");
  }
  waiting.kept = std::move(*kept);
  state_->Add(std::move(waiting));
  return absl::OkStatus();
}

absl::Status DeviceThread::KeepSurely(cuda::Stream stream, std::unique_ptr<Kept> kept,
                                      Clock::time_point deadline) {
  absl::Status status = KeepUntilDone(stream, &kept);
  while (absl::IsResourceExhausted(status)) {
    {
      // The stream cannot be marked later than this: it may be destroyed then.
      const cuda::CurrentContext current(*context_);
      if (context_->driver().api().stream_query(stream) == cuda::kSuccess) return absl::OkStatus();
    }
    if (Clock::now() >= deadline) break;
    std::this_thread::sleep_for(kLongestNap);
    status = KeepUntilDone(stream, &kept);
  }
  if (!status.ok()) KeepForGood(std::move(kept));
  return status;
}

void DeviceThread::KeepOfOwnStream(cuda::Stream stream, std::unique_ptr<Kept> kept) {
  if (KeepUntilDone(stream, &kept).ok()) return;
  state_->Add({.stream = stream, .kept = std::move(kept), .to_mark = true});
}

absl::Status DeviceThread::AwaitStream(cuda::Stream stream, Clock::time_point deadline) {
  RETURN_IF_ERROR(CheckNotCapturing(stream));
  const cuda::CurrentContext current(*context_);
  RETURN_IF_ERROR(current.status());
  const cuda::Driver& driver = context_->driver();
  std::optional<cuda::StreamMark> mark;
  RETURN_IF_ERROR(driver.Check(state_->Mark(context_, stream, &mark), "cuEventRecord"));
  // Nobody is woken when a GPU comes to a mark without a callback or a thread that waits for it
  // alone: it has to be asked.
  const Clock::time_point begin = Clock::now();
  std::chrono::microseconds nap = kFirstNap;
  cuda::Result result = mark->Query();
  while (result == cuda::kNotReady) {
    const Clock::time_point now = Clock::now();
    if (now >= deadline) break;
    if (now - begin < kLooks) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(nap, deadline - now));
      nap = std::min(2 * nap, kLongestNap);
    }
    result = mark->Query();
  }
  state_->GiveBack(*std::move(mark));
  if (result == cuda::kNotReady) {
    return absl::DeadlineExceededError("the GPU's stream did not come to its end in time");
  }
  return driver.Check(result, "cuEventQuery");
}

void DeviceThread::Destroy(std::unique_ptr<Kept> kept) {
  {
    MutexLock lock(&state_->mu);
    if (!state_->stop) {
      state_->to_destroy.push_back(std::move(kept));
      state_->changed.SignalAll();
    }
  }
  // Else here and now: the thread may be gone.
}

void DeviceThread::KeepForGood(std::unique_ptr<Kept> kept) {
  struct All {
    Mutex mu;
    std::vector<std::unique_ptr<Kept>> kept ABSL_GUARDED_BY(mu);
  };
  static All& all = *new All;
  MutexLock lock(&all.mu);
  all.kept.push_back(std::move(kept));
}

bool DeviceThread::AwaitDone(Clock::time_point deadline) const {
  MutexLock lock(&state_->mu);
  if (waiting() == 0) return true;
  const uint64_t mine = ++state_->asked;
  state_->changed.SignalAll();
  while (state_->answered < mine) {
    if (!state_->changed.WaitUntil(&state_->mu, deadline)) break;
  }
  return state_->answered >= mine;
}

uint64_t DeviceThread::waiting() const { return state_->waiting.load(); }

void DeviceThread::Worker::Run() {
  while (Take()) {
    const bool any = Look();
    pause_ = any ? kFirstPause : std::min(2 * pause_, kLongestPause);
    MutexLock lock(&state_.mu);
    state_.answered = asked_;
    state_.changed.SignalAll();
  }
  const cuda::CurrentContext current(*context_);
  own_mark_.reset();
  if (own_ != nullptr) (void)context_->driver().api().stream_destroy(own_);
}

bool DeviceThread::Worker::Take() {
  MutexLock lock(&state_.mu);
  const Clock::time_point look = Clock::now() + pause_;
  while (state_.added.empty() && state_.asked == asked_ && !(state_.stop && queues_.empty())) {
    if (queues_.empty()) {
      state_.changed.Wait(&state_.mu);
    } else if (!state_.changed.WaitUntil(&state_.mu, look)) {
      break;
    }
  }
  if (state_.added.empty() && state_.stop && queues_.empty()) return false;
  if (!state_.added.empty()) pause_ = kFirstPause;
  for (State::Waiting& one : state_.added) queues_[one.stream].push_back(std::move(one));
  state_.added.clear();
  asked_ = state_.asked;
  return true;
}

bool DeviceThread::Worker::Look() {
  if (queues_.empty()) return false;
  const cuda::CurrentContext current(*context_);
  bool any = false;
  bool dead = !current.status().ok();
  for (auto& [stream, queue] : queues_) dead |= !dead && !LookAt(queue, &any);
  if (dead) LetAllGo();
  std::erase_if(queues_, [](const auto& queue) { return queue.second.empty(); });
  return any || dead;
}

bool DeviceThread::Worker::LookAt(Queue& queue, bool* any) {
  while (!queue.empty()) {
    State::Waiting& first = queue.front();
    if (first.to_mark) {
      const cuda::Result marked = state_.Mark(context_, first.stream, &first.mark);
      if (marked != cuda::kSuccess) return !MeansDead(marked);
      first.to_mark = false;
    }
    if (!first.mark.has_value()) return !ContextIsDead();
    const cuda::Result result = first.mark->Query();
    if (MeansDead(result)) return false;
    if (result != cuda::kSuccess) return true;
    state_.GiveBack(*std::move(first.mark));
    queue.pop_front();
    state_.waiting.fetch_sub(1);
    *any = true;
  }
  return true;
}

bool DeviceThread::Worker::ContextIsDead() {
  cuda::Result result = cuda::kSuccess;
  if (own_ == nullptr) {
    result = context_->driver().api().stream_create(&own_, cuda::kStreamNonBlocking);
  }
  if (result == cuda::kSuccess && !own_mark_.has_value()) {
    result = cuda::StreamMark::Create(context_, &own_mark_);
  }
  return MeansDead(result == cuda::kSuccess ? own_mark_->Record(own_) : result);
}

void DeviceThread::Worker::LetAllGo() {
  for (auto& [stream, queue] : queues_) {
    for (State::Waiting& one : queue) {
      if (one.kept->written()) KeepForGood(std::move(one.kept));
    }
    state_.waiting.fetch_sub(queue.size());
    queue.clear();
  }
}

}  // namespace infercache
