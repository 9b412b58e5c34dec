#include "client/src/io_thread.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/fork_guard.h"
#include "common/start_thread.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

constexpr int kEventsAtOnce = 64;
constexpr IoThread::Clock::rep kAwake = std::numeric_limits<IoThread::Clock::rep>::min();

// What one process has. A static, because threads belong to processes; never destroyed, because
// clients may be statics too. A child makes its own: its parent's lock may be held for ever.
struct ProcessThread {
  const ForkGuard guard;
  Mutex mu;
  std::weak_ptr<IoThread> thread ABSL_GUARDED_BY(mu);
};

ProcessThread& OfThisProcess() {
  static std::atomic<ProcessThread*> current{nullptr};
  ProcessThread* found = current.load(std::memory_order_acquire);
  while (found == nullptr || found->guard.inherited()) {
    auto made = std::make_unique<ProcessThread>();
    if (current.compare_exchange_strong(found, made.get(), std::memory_order_acq_rel)) {
      return *made.release();
    }
  }
  return *found;
}

int TimeoutMs(IoThread::Clock::time_point when, IoThread::Clock::time_point now) {
  if (when <= now) return 0;
  // Rounded up: waking too early would spin.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(when - now).count();
  return static_cast<int>(std::min<int64_t>(ms, 3'600'000));
}

}  // namespace

absl::StatusOr<std::shared_ptr<IoThread>> IoThread::Acquire() {
  ProcessThread& process = OfThisProcess();
  MutexLock lock(&process.mu);
  if (std::shared_ptr<IoThread> running = process.thread.lock()) return running;
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  epoll_event event = {.events = EPOLLIN, .data = {.fd = wake.get()}};
  if (!epoll.valid() || !wake.valid() ||
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("epoll or eventfd: ", strerror(errno)));
  }
  std::shared_ptr<IoThread> made(new IoThread(std::move(epoll), std::move(wake)));
  ASSIGN_OR_RETURN(made->thread_, StartThread("infercache-io", [io = made.get()] { io->Run(); }));
  process.thread = made;
  return made;
}

IoThread::IoThread(UniqueFd epoll, UniqueFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

IoThread::~IoThread() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_release);
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

void IoThread::Add(Charge* charge) {
  {
    MutexLock lock(&mu_);
    charges_.insert(charge);
  }
  WakeBy(Clock::time_point::min());
}

void IoThread::Remove(Charge* charge) {
  {
    MutexLock lock(&mu_);
    charges_.erase(charge);
  }
  // Only once it is not called any more are its descriptors what they are: a call that is under way
  // may watch another one.
  MutexLock until_it_returns(&calls_mu_);
  std::vector<int> fds;
  {
    MutexLock lock(&mu_);
    for (const auto& [fd, owner] : watched_) {
      if (owner == charge) fds.push_back(fd);
    }
  }
  for (const int fd : fds) Unwatch(fd);
}

bool IoThread::Watch(int fd, uint32_t events, Charge* charge) {
  {
    MutexLock lock(&mu_);
    watched_[fd] = charge;
  }
  epoll_event event = {.events = events, .data = {.fd = fd}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return true;
  MutexLock lock(&mu_);
  watched_.erase(fd);
  return false;
}

void IoThread::ChangeWatch(int fd, uint32_t events) {
  epoll_event event = {.events = events, .data = {.fd = fd}};
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void IoThread::Unwatch(int fd) {
  {
    MutexLock lock(&mu_);
    if (watched_.erase(fd) == 0) return;
  }
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void IoThread::WakeBy(Clock::time_point when) {
  // seq_cst, as the thread's store is: either it sees what the caller did before, or this sees the
  // time it goes to sleep for. While it is up there is no telling: it is woken.
  const Clock::rep wakes_at = wakes_at_.load(std::memory_order_seq_cst);
  if (wakes_at == kAwake || when.time_since_epoch().count() < wakes_at) {
    eventfd_write(wake_.get(), 1);
  }
}

std::vector<IoThread::Charge*> IoThread::Charges() const {
  MutexLock lock(&mu_);
  return {charges_.begin(), charges_.end()};
}

bool IoThread::IsCharge(Charge* charge) const {
  MutexLock lock(&mu_);
  return charges_.contains(charge);
}

IoThread::Clock::time_point IoThread::CallTimers() {
  auto next = Clock::time_point::max();
  for (Charge* charge : Charges()) {
    MutexLock lock(&calls_mu_);
    if (IsCharge(charge)) next = std::min(next, charge->OnTimer(Clock::now()));
  }
  return next;
}

bool IoThread::CallIdle() {
  bool more = false;
  for (Charge* charge : Charges()) {
    MutexLock lock(&calls_mu_);
    if (IsCharge(charge) && charge->OnIdle()) more = true;
  }
  return more;
}

void IoThread::Dispatch(int fd, uint32_t events) {
  MutexLock lock(&calls_mu_);
  Charge* charge = nullptr;
  {
    MutexLock table(&mu_);
    const auto it = watched_.find(fd);
    if (it == watched_.end() || !charges_.contains(it->second)) return;
    charge = it->second;
  }
  charge->OnEvents(fd, events);
}

void IoThread::Run() {
  bool idle_work = true;
  while (!stop_.load(std::memory_order_acquire)) {
    wakes_at_.store(kAwake, std::memory_order_seq_cst);
    const Clock::time_point next = CallTimers();
    epoll_event events[kEventsAtOnce];
    int count = 0;
    // What somebody asked for while it was up waits in the eventfd.
    wakes_at_.store(next.time_since_epoch().count(), std::memory_order_seq_cst);
    if (idle_work) {
      count = epoll_wait(epoll_.get(), events, kEventsAtOnce, 0);
      if (count == 0) {
        idle_work = CallIdle();
        continue;
      }
    } else {
      count = epoll_wait(epoll_.get(), events, kEventsAtOnce,
                         next == Clock::time_point::max() ? -1 : TimeoutMs(next, Clock::now()));
    }
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == wake_.get()) {
        eventfd_t ignored;
        eventfd_read(wake_.get(), &ignored);
        idle_work = true;
      } else {
        Dispatch(events[i].data.fd, events[i].events);
      }
    }
  }
}

}  // namespace infercache
