// A piece of shareable memory: a sealed memfd and this process's mapping of it.
//
// Whoever is handed the descriptor can map the same bytes. Seals decide what they can do to it: it
// can never be resized or sealed further, and a segment made with kReadOnlyForOthers can never be
// mapped writable or written again by anybody but the mapping its creator already has.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/memory_room.h"
#include "common/unique_fd.h"

namespace infercache {

// What memory is made of. Larger pages make page tables, and every client's first touch of a
// mapping, smaller.
enum class PageKind : uint8_t { k4k, kThp, kHugetlb };
// "4k", "thp", "hugetlb".
const char* PageKindName(PageKind kind);

// What was asked for. kAuto: hugetlb if enough pages are reserved, else THP if the kernel gives
// them to shared memory on request, else 4 KiB.
enum class PageChoice : uint8_t { kAuto, k4k, kThp, kHugetlb };

inline constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

// What `choice` is for segments of `bytes` in all, as the machine is now. `hugetlb`: whether kAuto
// may be that.
PageKind ChoosePages(PageChoice choice, uint64_t bytes, bool hugetlb = true);

struct Populating {
  // Asked before it begins, and now and then: beyond it the kernel kills instead of refusing. Not
  // for huge pages, which are reserved already.
  MemoryRoom room = MemoryRoom();
  // Asked now and then, if there is one: whether nobody wants it any more.
  std::function<bool()> stopping = {};
};

// Owns mapping and descriptor. Movable; not thread-safe (the bytes are the caller's business).
class MemorySegment {
 public:
  enum class Access { kWritableForOthers, kReadOnlyForOthers };

  // A zeroed segment of `size` bytes, rounded up to whole pages, mode 0600. Pages cost nothing
  // until they are touched (huge ones are reserved at once). `name` shows in /proc/PID/maps.
  // RESOURCE_EXHAUSTED or INTERNAL name the system call.
  static absl::StatusOr<MemorySegment> Create(const std::string& name, uint64_t size, Access access,
                                              PageKind pages = PageKind::k4k);

  MemorySegment() = default;
  MemorySegment(MemorySegment&& other) noexcept;
  MemorySegment& operator=(MemorySegment&& other) noexcept;
  ~MemorySegment();

  // Backs every page with memory now, so that no later access can fail: a page fault that cannot be
  // served is a SIGBUS, not an error. RESOURCE_EXHAUSTED if there is not enough; UNAVAILABLE if it
  // was stopped.
  absl::Status Populate(const Populating& how = {});
  // Keeps the pages in memory. RESOURCE_EXHAUSTED names the limit on locked memory.
  absl::Status Lock();
  // Another descriptor of the same bytes, with which they can only be mapped for reading.
  absl::StatusOr<UniqueFd> OpenReadOnly() const;

  std::span<std::byte> bytes() const { return {base_, size_}; }
  int fd() const { return fd_.get(); }

 private:
  MemorySegment(UniqueFd fd, std::byte* base, size_t size, bool reserved);

  UniqueFd fd_;
  std::byte* base_ = nullptr;
  size_t size_ = 0;
  bool reserved_ = false;  // its huge pages are its own already
};

}  // namespace infercache
