#include "client/src/device_thread.h"

#include <algorithm>
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

// A context that dies calls nobody back: it is looked at this often while something is kept.
constexpr std::chrono::milliseconds kBetweenLooks{20};

// Says so when it is destroyed.
class Awaited final : public DeviceThread::Kept {
 public:
  struct Signal {
    Mutex mu;
    CondVar changed;
    bool given ABSL_GUARDED_BY(mu) = false;
  };
  explicit Awaited(std::shared_ptr<Signal> signal) : signal_(std::move(signal)) {}
  ~Awaited() override {
    MutexLock lock(&signal_->mu);
    signal_->given = true;
    signal_->changed.SignalAll();
  }

 private:
  const std::shared_ptr<Signal> signal_;
};

}  // namespace

std::chrono::steady_clock::time_point SteadyDeadline(absl::Time deadline) {
  const absl::Duration left =
      std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(24));
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left);
}

// What a stream's callback is given: it comes once, or, if its context is dead, never.
struct DeviceThread::Note {
  std::shared_ptr<State> state;  // which has the note until the callback was there
  uint64_t number;
};

// A stream's callback may be the last to have it, and must not call the driver: so what it holds
// then is nothing of the driver's.
struct DeviceThread::State {
  struct Waiting {
    std::unique_ptr<Note> note;
    std::unique_ptr<Kept> kept;
  };

  Mutex mu;
  CondVar changed;
  bool stop ABSL_GUARDED_BY(mu) = false;
  uint64_t next ABSL_GUARDED_BY(mu) = 1;
  std::map<uint64_t, Waiting> waiting ABSL_GUARDED_BY(mu);
  std::vector<uint64_t> done ABSL_GUARDED_BY(mu);
  // How many callbacks have come, and after how many all that they told of has been destroyed.
  uint64_t told ABSL_GUARDED_BY(mu) = 0;
  uint64_t heard ABSL_GUARDED_BY(mu) = 0;
  std::vector<std::unique_ptr<Kept>> to_destroy ABSL_GUARDED_BY(mu);
};

absl::StatusOr<std::shared_ptr<DeviceThread>> DeviceThread::Start(
    std::shared_ptr<const cuda::PrimaryContext> context) {
  std::shared_ptr<DeviceThread> made(new DeviceThread(std::move(context)));
  ASSIGN_OR_RETURN(made->thread_,
                   StartThread("infercache-gpu", [state = made->state_, kept = made->context_] {
                     Run(*state, *kept);
                   }));
  return made;
}

DeviceThread::DeviceThread(std::shared_ptr<const cuda::PrimaryContext> context)
    : context_(std::move(context)), state_(std::make_shared<State>()) {}

DeviceThread::~DeviceThread() {
  if (!thread_.joinable()) return;
  bool waits = false;
  if (!inherited()) {
    MutexLock lock(&state_->mu);
    state_->stop = true;
    waits = !state_->waiting.empty();
    state_->changed.SignalAll();
  }
  // Not for a GPU that may never be done; nor from what it destroys itself; nor where it is not.
  if (waits || inherited() || thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void DeviceThread::OnDone(void* note) {
  // A copy: once it is said, note and thread may go.
  const auto [state, number] = *static_cast<Note*>(note);
  MutexLock lock(&state->mu);
  state->done.push_back(number);
  ++state->told;
  state->changed.SignalAll();
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
  // An error of the context is for the callback to tell: nothing is kept for what is dead.
  if (absl::Status status = CheckNotCapturing(stream); absl::IsFailedPrecondition(status)) {
    return status;
  }
  Note* note = nullptr;
  uint64_t number = 0;
  {
    MutexLock lock(&state_->mu);
    number = state_->next++;
    State::Waiting& waiting = state_->waiting[number];
    waiting.note = std::make_unique<Note>(Note{state_, number});
    note = waiting.note.get();
    waiting.kept = std::move(*kept);
    state_->changed.SignalAll();
  }
  const cuda::CurrentContext current(*context_);
  const cuda::Driver& driver = context_->driver();
  const cuda::Result result = driver.api().launch_host_func(stream, OnDone, note);
  // The context is dead, or the stream alone is no more, which drivers say in the same words. The
  // thread asks a stream of its own: what is kept goes in the first case, and never in the second,
  // in which the GPU may still do what the stream was given.
  if (result == cuda::kSuccess || MeansDead(result)) return absl::OkStatus();
  std::map<uint64_t, State::Waiting>::node_type node;
  {
    MutexLock lock(&state_->mu);
    // Empty if the thread has seen meanwhile that the context is dead.
    node = state_->waiting.extract(number);
  }
  if (node.empty()) return absl::OkStatus();
  *kept = std::move(node.mapped().kept);
  return driver.Check(result, "cuLaunchHostFunc");
}

absl::Status DeviceThread::AwaitStream(cuda::Stream stream, Clock::time_point deadline) {
  const cuda::Driver& driver = context_->driver();
  const auto ask = [&] {
    const cuda::CurrentContext current(*context_);
    if (!current.status().ok()) return current.status();
    return driver.Check(driver.api().stream_query(stream), "cuStreamQuery");
  };
  if (absl::Status status = CheckNotCapturing(stream); !status.ok()) return status;
  const absl::Status now = ask();
  if (!absl::IsUnavailable(now)) return now;
  auto signal = std::make_shared<Awaited::Signal>();
  std::unique_ptr<Kept> awaited = std::make_unique<Awaited>(signal);
  if (absl::Status status = KeepUntilDone(stream, &awaited); !status.ok()) return status;
  {
    MutexLock lock(&signal->mu);
    while (!signal->given) {
      if (!signal->changed.WaitUntil(&signal->mu, deadline)) break;
    }
    if (!signal->given) {
      return absl::DeadlineExceededError("the GPU's stream did not come to its end in time");
    }
  }
  // Done, or dead? More work that was given to it since says nothing.
  const absl::Status after = ask();
  return absl::IsUnavailable(after) ? absl::OkStatus() : after;
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
  const uint64_t told = state_->told;
  while (state_->heard < told) {
    if (!state_->changed.WaitUntil(&state_->mu, deadline)) break;
  }
  return state_->heard >= told;
}

uint64_t DeviceThread::waiting() const {
  MutexLock lock(&state_->mu);
  return state_->waiting.size();
}

void DeviceThread::Run(State& state, const cuda::PrimaryContext& context) {
  const cuda::Driver& driver = context.driver();
  // Whether the context is dead is asked of a stream of our own: others may be destroyed any time.
  cuda::Stream own = nullptr;
  const auto context_is_dead = [&] {
    const cuda::CurrentContext current(context);
    if (own == nullptr) {
      return MeansDead(driver.api().stream_create(&own, cuda::kStreamNonBlocking));
    }
    return MeansDead(driver.api().stream_query(own));
  };
  while (true) {
    std::vector<std::unique_ptr<Kept>> gone;
    std::vector<State::Waiting> over;
    bool look = false;
    uint64_t told = 0;
    {
      MutexLock lock(&state.mu);
      const auto idle = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state.mu) {
        return state.done.empty() && state.to_destroy.empty() &&
               !(state.stop && state.waiting.empty());
      };
      while (idle()) {
        if (state.waiting.empty()) {
          state.changed.Wait(&state.mu);
        } else if (!state.changed.WaitUntil(&state.mu, Clock::now() + kBetweenLooks)) {
          break;
        }
      }
      look = idle();
      gone = std::move(state.to_destroy);
      state.to_destroy.clear();
      for (const uint64_t number : std::exchange(state.done, {})) {
        auto node = state.waiting.extract(number);
        if (!node.empty()) over.push_back(std::move(node.mapped()));
      }
      told = state.told;
      if (state.stop && state.waiting.empty() && gone.empty() && over.empty()) break;
    }
    if (look && context_is_dead()) {
      MutexLock lock(&state.mu);
      for (auto& [number, waiting] : state.waiting) over.push_back(std::move(waiting));
      state.waiting.clear();
    }
    over.clear();
    MutexLock lock(&state.mu);
    state.heard = told;
    state.changed.SignalAll();
  }
  if (own == nullptr) return;
  const cuda::CurrentContext current(context);
  if (current.status().ok()) (void)driver.api().stream_destroy(own);
}

}  // namespace infercache
