#include "client/src/fork_guard.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace infercache {
namespace {

using Word = std::atomic<uint64_t>;

// The word of a kernel that has no MADV_WIPEONFORK. It misses forks that bypass the C library.
Word* CounterfeitWord() {
  static Word word{0};
  pthread_atfork(nullptr, nullptr, [] { word.store(0, std::memory_order_relaxed); });
  return &word;
}

// Zero in a child until it makes something itself. State of the process, and so a static: a fork
// copies the process, not a client.
Word* ProcessWord() {
  static Word* const word = [] {
    const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* page = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return CounterfeitWord();
    if (madvise(page, size, MADV_WIPEONFORK) != 0) {
      munmap(page, size);
      return CounterfeitWord();
    }
    return new (page) Word(0);
  }();
  return word;
}

// Inherited by children, so that their epochs are larger than all of their ancestors'.
std::atomic<uint64_t> last_epoch{0};

}  // namespace

ForkGuard::ForkGuard() : word_(ProcessWord()) {
  Word& word = *ProcessWord();
  uint64_t now = word.load(std::memory_order_relaxed);
  if (now == 0) {
    const uint64_t mine = last_epoch.fetch_add(1, std::memory_order_relaxed) + 1;
    if (word.compare_exchange_strong(now, mine)) now = mine;
  }
  epoch_ = now;
}

}  // namespace infercache
