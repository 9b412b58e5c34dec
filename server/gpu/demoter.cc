#include "server/gpu/demoter.h"

#include <algorithm>
#include <atomic>
#include <chrono>
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

struct Demoter::State {
  State(std::shared_ptr<const cuda::Driver> d, cuda::Device number, Options o)
      : driver(std::move(d)), device(number), options(std::move(o)) {}

  const std::shared_ptr<const cuda::Driver> driver;
  const cuda::Device device;
  const Options options;

  std::atomic<bool> woken{false};
  Mutex mu;
  CondVar changed;
  bool stop ABSL_GUARDED_BY(mu) = false;
  bool ended ABSL_GUARDED_BY(mu) = false;
  std::vector<Tier> added ABSL_GUARDED_BY(mu);

  void Wake() {
    if (woken.exchange(true, std::memory_order_relaxed)) return;  // cheap for puts while it works
    MutexLock lock(&mu);  // or the signal could fall between the thread's look and its wait
    changed.SignalAll();
  }
};

// All that the thread does. The driver's objects are made and destroyed on it.
class Demoter::Worker {
 public:
  explicit Worker(State& state) : state_(state) {}
  ~Worker();

  // Returns when it is told to stop, OK, or why it cannot go on.
  absl::Status Run();

 private:
  // False: it is told to stop.
  bool AwaitWork();
  void Prepare(Tier tier);
  // Before the memory goes: what is mapped there next would be taken for it.
  void Unregister(const Tier& tier);
  // One batch. False: there is nothing more to do for now.
  absl::StatusOr<bool> DemoteSome(const Tier& tier);
  absl::Status Copy(const Tier& tier, const std::vector<store::Namespace::Demotion>& demotions);
  const cuda::Api& api() const { return state_.driver->api(); }
  absl::Status Check(cuda::Result result, std::string_view call) const {
    return state_.driver->Check(result, call);
  }

  State& state_;
  std::shared_ptr<const cuda::PrimaryContext> context_;
  cuda::Stream stream_ = nullptr;
  std::vector<Tier> tiers_;
  std::vector<std::byte*> registered_;
};

absl::Status Demoter::Worker::Run() {
  ASSIGN_OR_RETURN(context_, cuda::PrimaryContext::Retain(state_.driver, state_.device));
  const cuda::CurrentContext current(*context_);
  RETURN_IF_ERROR(current.status());
  RETURN_IF_ERROR(Check(api().stream_create(&stream_, cuda::kStreamNonBlocking), "cuStreamCreate"));
  while (AwaitWork()) {
    std::erase_if(tiers_, [this](const Tier& tier) {
      if (tier.objects->closed()) Unregister(tier);
      return tier.objects->closed();
    });
    for (const Tier& tier : tiers_) {
      bool more = true;
      while (more) {
        ASSIGN_OR_RETURN(more, DemoteSome(tier));
      }
    }
  }
  return absl::OkStatus();
}

Demoter::Worker::~Worker() {
  if (context_ == nullptr) return;
  const cuda::CurrentContext current(*context_);
  for (const Tier& tier : tiers_) Unregister(tier);
  tiers_.clear();
  if (stream_ != nullptr) (void)api().stream_destroy(stream_);
}

bool Demoter::Worker::AwaitWork() {
  std::vector<Tier> added;
  {
    MutexLock lock(&state_.mu);
    const Clock::time_point look = Clock::now() + kBetweenLooks;
    while (!state_.stop && state_.added.empty() && !state_.woken.load(std::memory_order_relaxed)) {
      if (!state_.changed.WaitUntil(&state_.mu, look)) break;
    }
    if (state_.stop) return false;
    state_.woken.store(false, std::memory_order_relaxed);
    added.swap(state_.added);
  }
  for (Tier& tier : added) Prepare(std::move(tier));
  return true;
}

void Demoter::Worker::Prepare(Tier tier) {
  for (const std::span<std::byte> chunk : tier.host->arena_chunks()) {
    // Several tiers may have one host memory.
    if (std::find(registered_.begin(), registered_.end(), chunk.data()) != registered_.end()) break;
    const absl::Status status = Check(api().mem_host_register(chunk.data(), chunk.size(), 0),
                                      "cuMemHostRegister of an arena");
    if (status.ok()) {
      registered_.push_back(chunk.data());
    } else {
      if (state_.options.slow) state_.options.slow(status);
      break;
    }
  }
  tiers_.push_back(std::move(tier));
}

void Demoter::Worker::Unregister(const Tier& tier) {
  for (const std::span<std::byte> chunk : tier.host->arena_chunks()) {
    if (std::erase(registered_, chunk.data()) == 0) continue;  // another tier's turn came before
    (void)Check(api().mem_host_unregister(chunk.data()), "cuMemHostUnregister");
  }
}

absl::StatusOr<bool> Demoter::Worker::DemoteSome(const Tier& tier) {
  const uint64_t bytes = std::min(tier.objects->BytesToDemote(), state_.options.batch_bytes);
  if (bytes == 0) return false;
  {
    MutexLock lock(&state_.mu);
    if (state_.stop) return false;
  }
  auto demotions = tier.objects->BeginDemotion(bytes, state_.options.batch_objects);
  if (demotions.empty()) return false;
  const absl::Status copied = Copy(tier, demotions);
  // In a context that is dead nothing is written any more: what was begun can be dropped.
  if (!copied.ok()) demotions.clear();
  const size_t moved = tier.objects->FinishDemotion(std::move(demotions));
  RETURN_IF_ERROR(copied);
  return moved > 0;
}

absl::Status Demoter::Worker::Copy(const Tier& tier,
                                   const std::vector<store::Namespace::Demotion>& demotions) {
  absl::Status status;
  for (const store::Namespace::Demotion& demotion : demotions) {
    if (!demotion.to.has_value() || demotion.to->bytes().empty()) continue;
    const std::span<std::byte> to = demotion.to->bytes();
    const store::Place place = demotion.from.place();
    status =
        Check(api().memcpy_dtoh_async(to.data(), tier.chunks[place.chunk].address() + place.offset,
                                      to.size(), stream_),
              "cuMemcpyDtoHAsync");
    if (!status.ok()) break;
  }
  // Also what was begun before a failure may still be written.
  const absl::Status done = Check(api().stream_synchronize(stream_), "cuStreamSynchronize");
  return status.ok() ? done : status;
}

absl::StatusOr<std::unique_ptr<Demoter>> Demoter::Start(std::shared_ptr<const cuda::Driver> driver,
                                                        cuda::Device device, Options options) {
  std::unique_ptr<Demoter> demoter(
      new Demoter(std::make_shared<State>(std::move(driver), device, std::move(options))));
  const auto run = [state = demoter->state_] {
    const absl::Status why = Worker(*state).Run();
    if (!why.ok() && state->options.switched_off) state->options.switched_off(why);
    MutexLock lock(&state->mu);
    state->ended = true;
    state->added.clear();
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

std::function<void()> Demoter::low_room() const {
  return [weak = std::weak_ptr<State>(state_)] {
    if (const auto state = weak.lock()) state->Wake();
  };
}

void Demoter::Add(Tier tier) {
  MutexLock lock(&state_->mu);
  if (state_->ended) return;
  state_->added.push_back(std::move(tier));
  state_->changed.SignalAll();
}

}  // namespace infercache::gpu
