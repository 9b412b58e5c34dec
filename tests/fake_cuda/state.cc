#include "tests/fake_cuda/state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>

namespace infercache::fake_cuda {
namespace {

constexpr uint64_t kMagic = 0x31616475636b6166;

// Robust: the next one to lock goes on where a killed process was; every change is one assignment
// of a table's row, its kind last.
class StateLock {
 public:
  explicit StateLock(State* state) : mu_(&state->mu) {
    if (pthread_mutex_lock(mu_) == EOWNERDEAD) pthread_mutex_consistent(mu_);
  }
  ~StateLock() { pthread_mutex_unlock(mu_); }
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;

 private:
  pthread_mutex_t* const mu_;
};

void Format(State* state, uint32_t device_count, uint64_t device_bytes) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&state->mu, &attributes);
  pthread_mutexattr_destroy(&attributes);
  state->device_count = device_count;
  state->device_bytes = device_bytes;
  state->next_allocation = 1;
  state->magic.store(kMagic, std::memory_order_release);
}

// Locks of an open file description, not of a process: another descriptor of the same file that is
// closed in this process does not drop them.
struct flock ByteLock(uint32_t process) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = process;
  lock.l_len = 1;
  return lock;
}

}  // namespace

std::unique_ptr<StateFile> StateFile::Open(const std::string& path, uint32_t device_count,
                                           uint64_t device_bytes) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid() || flock(fd.get(), LOCK_EX) != 0) return nullptr;
  struct stat status;
  if (fstat(fd.get(), &status) != 0) return nullptr;
  const bool fresh = status.st_size == 0;
  if (fresh && ftruncate(fd.get(), sizeof(State)) != 0) return nullptr;
  if (!fresh && status.st_size != sizeof(State)) return nullptr;
  void* const base = mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return nullptr;
  auto* const state = static_cast<State*>(base);
  if (state->magic.load(std::memory_order_acquire) != kMagic) {
    Format(state, device_count, device_bytes);
  }
  flock(fd.get(), LOCK_UN);
  return std::unique_ptr<StateFile>(new StateFile(std::move(fd), state));
}

StateFile::~StateFile() { munmap(state_, sizeof(State)); }

bool StateFile::Enter() {
  const StateLock lock(state_);
  for (uint32_t process = 0; process < kMaxProcesses; ++process) {
    struct flock byte = ByteLock(process);
    if (fcntl(fd_.get(), F_OFD_SETLK, &byte) != 0) continue;
    process_ = process;
    // A slot's last owner may have left something behind.
    for (Holding& holding : state_->holdings) {
      if (holding.process == process) holding.kind = Kind::kNone;
    }
    return true;
  }
  return false;
}

void StateFile::Leave() { fd_.Reset(); }

bool StateFile::Alive(uint32_t process) const {
  if (process == process_) return true;
  struct flock byte = ByteLock(process);
  return fcntl(fd_.get(), F_OFD_GETLK, &byte) == 0 && byte.l_type != F_UNLCK;
}

void StateFile::ForgetTheDead() {
  std::set<uint32_t> alive, dead;
  for (Holding& holding : state_->holdings) {
    if (holding.kind == Kind::kNone || alive.contains(holding.process)) continue;
    if (!dead.contains(holding.process) && Alive(holding.process)) {
      alive.insert(holding.process);
    } else {
      dead.insert(holding.process);
      holding.kind = Kind::kNone;
    }
  }
}

Use StateFile::UseLocked(uint32_t device) const {
  Use use;
  std::set<uint64_t> seen;
  for (const Holding& holding : state_->holdings) {
    if (holding.kind == Kind::kNone || holding.device != device) continue;
    if (holding.kind == Kind::kContext) {
      ++use.contexts;
      continue;
    }
    ++(holding.kind == Kind::kHandle    ? use.handles
       : holding.kind == Kind::kMapping ? use.mappings
       : holding.kind == Kind::kLegacy  ? use.legacy
                                        : use.opened);
    if (!seen.insert(holding.allocation).second) continue;
    ++use.allocations;
    use.bytes += holding.bytes;
  }
  return use;
}

Use StateFile::UseOf(uint32_t device) {
  const StateLock lock(state_);
  ForgetTheDead();
  return UseLocked(device);
}

bool StateFile::Hold(Kind kind, uint32_t device, uint64_t allocation, uint64_t bytes,
                     uint64_t address, int32_t fd) {
  const StateLock lock(state_);
  ForgetTheDead();
  if (allocation != 0) {
    bool known = false;
    for (const Holding& holding : state_->holdings) {
      known |= holding.kind != Kind::kNone && holding.allocation == allocation;
    }
    if (!known && UseLocked(device).bytes + bytes > state_->device_bytes) return false;
  }
  for (Holding& holding : state_->holdings) {
    if (holding.kind != Kind::kNone) continue;
    holding = {Kind::kNone, process_, device, fd, allocation, bytes, address};
    holding.kind = kind;
    return true;
  }
  return false;
}

void StateFile::LetGo(Kind kind, uint32_t device, uint64_t allocation) {
  const StateLock lock(state_);
  for (Holding& holding : state_->holdings) {
    if (holding.kind == kind && holding.process == process_ && holding.device == device &&
        holding.allocation == allocation) {
      holding.kind = Kind::kNone;
      return;
    }
  }
}

Holding StateFile::FindLegacy(uint32_t process, uint64_t address) {
  const StateLock lock(state_);
  ForgetTheDead();
  for (const Holding& holding : state_->holdings) {
    if (holding.kind == Kind::kLegacy && holding.process == process && holding.address == address) {
      return holding;
    }
  }
  return {};
}

bool StateFile::IsOpened(uint64_t allocation) {
  const StateLock lock(state_);
  ForgetTheDead();
  for (const Holding& holding : state_->holdings) {
    if (holding.kind == Kind::kOpened && holding.allocation == allocation) return true;
  }
  return false;
}

uint64_t StateFile::NewAllocation() {
  const StateLock lock(state_);
  return state_->next_allocation++;
}

}  // namespace infercache::fake_cuda
