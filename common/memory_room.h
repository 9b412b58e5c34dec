// How much memory this process can still take. Whoever takes more gets no error for it: the kernel
// ends a process of the cgroup, or of the machine, and that is as a rule the one that has most.

#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace infercache {

// Thread-safe. What it says is as of now: who else takes memory meanwhile is not known.
class MemoryRoom {
 public:
  // `root` stands before the paths of /proc and /sys; tests give a directory of their own.
  explicit MemoryRoom(std::string root = "") : root_(std::move(root)) {}

  // Whether `bytes` more, and what the kernel needs to map them, fit into the cgroup, those above
  // it, and the machine. Of a group's memory.max and memory.high, above which it is slowed down,
  // the lower one counts. Memory that the kernel can have back, as the page cache's, is free.
  // RESOURCE_EXHAUSTED says where it does not fit and what is there. A limit that no file tells is
  // none.
  absl::Status Check(uint64_t bytes) const;

 private:
  std::string root_;
};

}  // namespace infercache
