// A piece of shareable memory: a sealed memfd and this process's mapping of it.
//
// Whoever is handed the descriptor can map the same bytes. Seals decide what they can do to it: it
// can never be resized or sealed further, and a segment made with kReadOnlyForOthers can never be
// mapped writable or written again by anybody but the mapping its creator already has.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace infercache {

// Owns mapping and descriptor. Movable; not thread-safe (the bytes are the caller's business).
class MemorySegment {
 public:
  enum class Access { kWritableForOthers, kReadOnlyForOthers };

  // A zeroed segment of `size` bytes, rounded up to whole pages, mode 0600. Pages cost nothing
  // until they are touched. `name` shows in /proc/PID/maps. RESOURCE_EXHAUSTED or INTERNAL name the
  // system call.
  static absl::StatusOr<MemorySegment> Create(const std::string& name, uint64_t size,
                                              Access access);

  MemorySegment() = default;
  MemorySegment(MemorySegment&& other) noexcept;
  MemorySegment& operator=(MemorySegment&& other) noexcept;
  ~MemorySegment();

  // Backs every page with memory now, so that no later access can fail: a page fault that cannot be
  // served is a SIGBUS, not an error. RESOURCE_EXHAUSTED if there is not enough.
  absl::Status Populate();

  std::span<std::byte> bytes() const { return {base_, size_}; }
  int fd() const { return fd_.get(); }

 private:
  MemorySegment(UniqueFd fd, std::byte* base, size_t size);

  UniqueFd fd_;
  std::byte* base_ = nullptr;
  size_t size_ = 0;
};

}  // namespace infercache
