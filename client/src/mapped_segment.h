// A mapping of a segment that the daemon sent: memory that no fork inherits. Movable; not
// thread-safe (the bytes are the caller's business).

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "client/src/fork_guard.h"
#include "common/unique_fd.h"

namespace infercache {

class MappedSegment {
 public:
  // The first `size` bytes of `fd`, which may be closed afterwards. INTERNAL: it is no
  // sealed segment of that size, so that reading it could fault. RESOURCE_EXHAUSTED names the
  // system call.
  static absl::StatusOr<MappedSegment> Map(const UniqueFd& fd, uint64_t size, bool writable);

  MappedSegment() = default;
  MappedSegment(MappedSegment&& other) noexcept;
  MappedSegment& operator=(MappedSegment&& other) noexcept;
  // In a forked child, where nothing is mapped there, it does nothing.
  ~MappedSegment();

  std::span<std::byte> bytes() const { return bytes_; }
  // For `size` bytes from `offset` on, whose pages the daemon has populated. False: this kernel
  // cannot.
  bool FillPageTables(uint64_t offset, uint64_t size) const;

 private:
  MappedSegment(std::span<std::byte> bytes, bool writable) : bytes_(bytes), writable_(writable) {}

  ForkGuard guard_;
  std::span<std::byte> bytes_;
  bool writable_ = false;
};

}  // namespace infercache
