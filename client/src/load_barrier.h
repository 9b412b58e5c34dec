// Orders the loads before it before the loads after it.
//
// What std::atomic_thread_fence(acquire) does, which ThreadSanitizer does not know and gcc refuses
// beside it. Memory read across it is another process's to write, which no sanitizer sees anyway.

#pragma once

namespace infercache {

inline void LoadBarrier() {
#if defined(__x86_64__)
  asm volatile("" ::: "memory");  // the processor keeps loads in order
#elif defined(__aarch64__)
  asm volatile("dmb ishld" ::: "memory");
#else
  __sync_synchronize();
#endif
}

}  // namespace infercache
