// Whether this process is the one that made something, or a forked child of it: one load.
//
// A child shares neither its parent's threads nor, on the local lane, its mappings, but it has all
// of its locks as they were at the moment of the fork. So nothing that a parent made may be used
// there, and only what touches neither locks nor mappings may be done to it.

#pragma once

#include <atomic>
#include <cstdint>

namespace infercache {

// A value that remembers the process in which it was constructed. Thread-safe.
class ForkGuard {
 public:
  ForkGuard();

  // True in a child, and in its children, whatever they make themselves.
  bool inherited() const { return word_->load(std::memory_order_relaxed) != epoch_; }

 private:
  const std::atomic<uint64_t>* word_;
  uint64_t epoch_;
};

}  // namespace infercache
