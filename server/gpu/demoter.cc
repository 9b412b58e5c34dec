#include "server/gpu/demoter.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <utility>

#include "common/cuda/context.h"
#include "common/mutex.h"
#include "common/start_thread.h"
#include "common/status_macros.h"

namespace infercache::gpu {
namespace {

using Clock = std::chrono::steady_clock;

// Room is also lost without a put that would tell: a reader lets go of what keeps others from
// going.
constexpr std::chrono::milliseconds kBetweenLooks{100};

}  // namespace

// A tier that the thread works for. Goes from the last member to the first.
struct Demoter::Prepared {
  Tier tier;
  std::vector<cuda::Mapping> chunks;              // for reading
  std::vector<HostRegistry::Use> registered;      // of tier.host
  std::vector<store::Namespace::Demotion> batch;  // which the GPU may have in hand for good
};

struct Demoter::State {
  State(std::shared_ptr<const cuda::Driver> d, cuda::Device number, std::shared_ptr<HostRegistry> r,
        Options o)
      : driver(std::move(d)), device(number), registry(std::move(r)), options(std::move(o)) {}

  const std::shared_ptr<const cuda::Driver> driver;
  const cuda::Device device;
  const std::shared_ptr<HostRegistry> registry;
  const Options options;

  std::atomic<bool> woken{false};
  // When the thread began what it is at. The end of time while it waits, the beginning of it once
  // it has ended.
  std::atomic<Clock::time_point> at_it_since{Clock::now()};
  Mutex mu;
  CondVar changed;
  bool stop ABSL_GUARDED_BY(mu) = false;
  bool ended ABSL_GUARDED_BY(mu) = false;
  std::vector<Tier> added ABSL_GUARDED_BY(mu);
  // The thread's. Here it outlives that, which ends when its GPU fails.
  std::unique_ptr<Prepared> kept;

  // Returns whether the thread is at work.
  bool Wake() {
    const bool works =
        at_it_since.load(std::memory_order_relaxed) > Clock::now() - options.patience;
    if (woken.exchange(true, std::memory_order_relaxed)) return works;  // cheap for puts
    MutexLock lock(&mu);  // or the signal could fall between the thread's look and its wait
    changed.SignalAll();
    return works;
  }
  bool IsStopped() {
    MutexLock lock(&mu);
    return stop;
  }
  void IsAt(Clock::time_point since) { at_it_since.store(since, std::memory_order_relaxed); }
};

// All that the thread does. The driver's objects are made and destroyed on it.
class Demoter::Worker {
 public:
  explicit Worker(State& state) : state_(state) {}
  ~Worker();

  // Returns when it is told to stop, OK, or why it cannot go on.
  absl::Status Run();

 private:
  // Not if some `is_there`. False: it is told to stop.
  absl::StatusOr<bool> AwaitWork(bool is_there);
  absl::Status Prepare(Tier tier);
  // One batch. False: there is nothing more to do for now.
  absl::StatusOr<bool> DemoteSome(std::unique_ptr<Prepared>& prepared);
  // Of a tier's batch. `settled`: whatever comes of it, the GPU does nothing with it any more.
  absl::Status Copy(const Prepared& prepared, bool* settled);
  const cuda::Api& api() const { return state_.driver->api(); }
  absl::Status Check(cuda::Result result, std::string_view call) const {
    return state_.driver->Check(result, call);
  }

  State& state_;
  std::shared_ptr<const cuda::PrimaryContext> context_;
  cuda::Stream stream_ = nullptr;
  std::vector<std::unique_ptr<Prepared>> tiers_;
};

absl::Status Demoter::Worker::Run() {
  ASSIGN_OR_RETURN(context_, cuda::PrimaryContext::Retain(state_.driver, state_.device));
  const cuda::CurrentContext current(*context_);
  RETURN_IF_ERROR(current.status());
  RETURN_IF_ERROR(Check(api().stream_create(&stream_, cuda::kStreamNonBlocking), "cuStreamCreate"));
  for (bool more = false;;) {
    ASSIGN_OR_RETURN(const bool works, AwaitWork(/*is_there=*/more));
    if (!works) return absl::OkStatus();
    // Their host memory is unregistered before it goes: what is mapped there next would be taken
    // for it.
    std::erase_if(tiers_, [](const auto& one) { return one->tier.objects->closed(); });
    // In turns: one that is never done keeps neither the others nor those that come and go.
    more = false;
    for (std::unique_ptr<Prepared>& one : tiers_) {
      ASSIGN_OR_RETURN(const bool more_of_it, DemoteSome(one));
      more |= more_of_it;
    }
  }
}

Demoter::Worker::~Worker() {
  if (context_ == nullptr) return;
  const cuda::CurrentContext current(*context_);
  tiers_.clear();
  if (stream_ != nullptr) (void)api().stream_destroy(stream_);
}

absl::StatusOr<bool> Demoter::Worker::AwaitWork(bool is_there) {
  std::vector<Tier> added;
  state_.IsAt(Clock::time_point::max());
  {
    MutexLock lock(&state_.mu);
    const Clock::time_point look = Clock::now() + kBetweenLooks;
    while (!is_there && !state_.stop && state_.added.empty() &&
           !state_.woken.load(std::memory_order_relaxed)) {
      if (!state_.changed.WaitUntil(&state_.mu, look)) break;
    }
    if (state_.stop) return false;
    state_.woken.store(false, std::memory_order_relaxed);
    added.swap(state_.added);
  }
  state_.IsAt(Clock::now());
  for (Tier& tier : added) RETURN_IF_ERROR(Prepare(std::move(tier)));
  return true;
}

// Here and not where the tier is made: there is a context by now, which a driver may want for a
// mapping, and who makes a tier does not wait for a GPU that hangs.
absl::Status Demoter::Worker::Prepare(Tier tier) {
  auto prepared = std::make_unique<Prepared>();
  prepared->tier = std::move(tier);
  for (const cuda::Allocation& chunk : *prepared->tier.memory) {
    ASSIGN_OR_RETURN(cuda::Mapping mapping,
                     cuda::Mapping::Map(chunk, state_.device, cuda::Mapping::Access::kRead));
    prepared->chunks.push_back(std::move(mapping));
  }
  for (const std::span<std::byte> chunk : prepared->tier.host->arena_chunks()) {
    auto use = state_.registry->Add(chunk, context_);
    if (!use.ok()) {
      if (state_.options.slow && !state_.IsStopped()) state_.options.slow(use.status());
      break;
    }
    prepared->registered.push_back(*std::move(use));
  }
  tiers_.push_back(std::move(prepared));
  return absl::OkStatus();
}

absl::StatusOr<bool> Demoter::Worker::DemoteSome(std::unique_ptr<Prepared>& prepared) {
  state_.IsAt(Clock::now());
  store::Namespace& objects = *prepared->tier.objects;
  const uint64_t bytes = std::min(objects.BytesToDemote(), state_.options.batch_bytes);
  if (bytes == 0) return false;
  if (state_.IsStopped()) return false;
  prepared->batch = objects.BeginDemotion(bytes, state_.options.batch_objects);
  if (prepared->batch.empty()) return false;
  bool settled = false;
  const absl::Status copied = Copy(*prepared, &settled);
  // Left behind, it finds a store whose clock and observer may be gone: it only lets go of things.
  const bool left_behind = state_.IsStopped();
  if (copied.ok() && !left_behind) {
    return objects.FinishDemotion(std::exchange(prepared->batch, {})) > 0;
  }
  // Nothing moves. The GPU may still read the objects, and write their room below, in a context
  // that is dead: no call says when it has stopped.
  if (!left_behind) (void)objects.FinishDemotion({});
  if (!settled) state_.kept = std::move(prepared);
  RETURN_IF_ERROR(copied);
  return false;
}

absl::Status Demoter::Worker::Copy(const Prepared& prepared, bool* settled) {
  absl::Status status;
  for (const store::Namespace::Demotion& demotion : prepared.batch) {
    if (!demotion.to.has_value() || demotion.to->bytes().empty()) continue;
    const std::span<std::byte> to = demotion.to->bytes();
    const store::Place place = demotion.from.place();
    status = Check(
        api().memcpy_dtoh_async(to.data(), prepared.chunks[place.chunk].address() + place.offset,
                                to.size(), stream_),
        "cuMemcpyDtoHAsync");
    if (!status.ok()) break;
  }
  // Also what was begun before a failure may still be written.
  const absl::Status done = Check(api().stream_synchronize(stream_), "cuStreamSynchronize");
  *settled = done.ok();
  return status.ok() ? done : status;
}

absl::StatusOr<std::unique_ptr<Demoter>> Demoter::Start(std::shared_ptr<const cuda::Driver> driver,
                                                        cuda::Device device,
                                                        std::shared_ptr<HostRegistry> registry,
                                                        Options options) {
  std::unique_ptr<Demoter> demoter(new Demoter(
      std::make_shared<State>(std::move(driver), device, std::move(registry), std::move(options))));
  const auto run = [state = demoter->state_] {
    const absl::Status why = Worker(*state).Run();
    state->IsAt(Clock::time_point::min());
    const bool tells = state->options.switched_off != nullptr && !state->IsStopped();
    if (!why.ok() && tells) state->options.switched_off(why);
    std::vector<Tier> never_begun;  // goes under no lock
    MutexLock lock(&state->mu);
    state->ended = true;
    never_begun.swap(state->added);
    state->changed.SignalAll();
  };
  ASSIGN_OR_RETURN(demoter->thread_, StartThread("infercached-gpu", run));
  return demoter;
}

Demoter::~Demoter() {
  if (!thread_.joinable()) return;
  bool ended = false;
  {
    MutexLock lock(&state_->mu);
    state_->stop = true;
    state_->changed.SignalAll();
    const Clock::time_point deadline = Clock::now() + state_->options.patience;
    while (!state_->ended) {
      if (!state_->changed.WaitUntil(&state_->mu, deadline)) break;
    }
    ended = state_->ended;
  }
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

std::function<bool()> Demoter::low_room() const {
  return [weak = std::weak_ptr<State>(state_)] {
    const auto state = weak.lock();
    return state != nullptr && state->Wake();
  };
}

void Demoter::Add(Tier tier) {
  MutexLock lock(&state_->mu);
  if (state_->ended) return;
  state_->added.push_back(std::move(tier));
  state_->changed.SignalAll();
}

}  // namespace infercache::gpu
