#include "common/closer.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <deque>
#include <limits>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "common/limits.h"
#include "common/mutex.h"
#include "common/received_descriptors.h"
#include "common/unique_fd.h"

namespace infercache {
namespace {

using std::chrono::steady_clock;

// So many descriptors may be stuck before others wait for them.
constexpr size_t kMostThreads = 32;
// All but the last thread leave when there was nothing to do for so long.
constexpr std::chrono::seconds kIdle{1};
constexpr std::chrono::milliseconds kPatienceAtTheEnd{200};

void CloseNow(int fd) {
  // Else the last close of a TCP socket may wait for hours until what it has to send is sent.
  const linger off = {};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
  close(fd);
}

// See Closer::Drain.
bool ReadAway(int socket, size_t budget, absl::FunctionRef<void(int fd)> on_descriptor) {
  char waste[4096];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxMessageDescriptors)];
  for (size_t total = 0; total < budget;) {
    iovec piece = {.iov_base = waste, .iov_len = sizeof waste};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (received == 0) return true;
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return errno != EAGAIN && errno != EWOULDBLOCK;
    total += static_cast<size_t>(received);
    TakeReceivedDescriptors(message, on_descriptor);
  }
  return false;
}

}  // namespace

struct Closer::State : std::enable_shared_from_this<State> {
  struct Item {
    int fd;
    bool drain;
  };

  void Add(Item item) ABSL_LOCKS_EXCLUDED(mu);
  void Run() ABSL_LOCKS_EXCLUDED(mu);
  // False: this thread is to end.
  bool Take(Item* item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  static void* Main(void* state);

  Mutex mu;
  CondVar changed, none;
  std::deque<Item> queue ABSL_GUARDED_BY(mu);
  size_t threads ABSL_GUARDED_BY(mu) = 0;
  size_t idle ABSL_GUARDED_BY(mu) = 0;  // of them
  size_t pending ABSL_GUARDED_BY(mu) = 0;
  bool stop ABSL_GUARDED_BY(mu) = false;
};

void Closer::State::Add(Item item) {
  {
    MutexLock lock(&mu);
    queue.push_back(item);
    ++pending;
    changed.Signal();
    if (queue.size() <= idle || threads == kMostThreads) return;
    ++threads;
  }
  // Without Asio and std::thread: one that cannot be had is no reason to end. What is queued waits
  // for another one then.
  pthread_t thread;
  auto* held = new std::shared_ptr<State>(shared_from_this());
  if (pthread_create(&thread, nullptr, &Main, held) == 0) {
    pthread_detach(thread);
    return;
  }
  delete held;
  MutexLock lock(&mu);
  --threads;
}

void* Closer::State::Main(void* state) {
  auto* held = static_cast<std::shared_ptr<State>*>(state);
  (*held)->Run();
  delete held;
  return nullptr;
}

bool Closer::State::Take(Item* item) {
  const auto leaves_at = steady_clock::now() + kIdle;
  ++idle;
  while (queue.empty() && !stop) {
    if (threads == 1) {
      changed.Wait(&mu);
    } else if (!changed.WaitUntil(&mu, leaves_at) && threads > 1) {
      break;
    }
  }
  --idle;
  if (queue.empty()) return false;
  *item = queue.front();
  queue.pop_front();
  return true;
}

void Closer::State::Run() {
  for (Item item;;) {
    {
      MutexLock lock(&mu);
      if (!Take(&item)) {
        --threads;
        return;
      }
    }
    // Else closing it would close them, and what keeps them waiting would not be off.
    if (item.drain) ReadAway(item.fd, std::numeric_limits<size_t>::max(), CloseNow);
    CloseNow(item.fd);
    MutexLock lock(&mu);
    if (--pending == 0) none.SignalAll();
  }
}

Closer::Closer() : state_(std::make_shared<State>()) {}

Closer::~Closer() {
  const auto deadline = steady_clock::now() + kPatienceAtTheEnd;
  MutexLock lock(&state_->mu);
  state_->stop = true;
  state_->changed.SignalAll();
  while (state_->pending > 0 && state_->none.WaitUntil(&state_->mu, deadline)) {
  }
}

void Closer::Close(int fd) { state_->Add({fd, /*drain=*/false}); }
void Closer::CloseSocket(int fd) { state_->Add({fd, /*drain=*/true}); }

bool Closer::Drain(int socket, size_t budget) {
  return ReadAway(socket, budget, [this](int fd) { Close(fd); });
}

size_t Closer::pending() const {
  MutexLock lock(&state_->mu);
  return state_->pending;
}

void CloseBy(Closer& closer, int fd) { closer.Close(fd); }

}  // namespace infercache
