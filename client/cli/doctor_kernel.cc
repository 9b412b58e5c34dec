#include "client/cli/doctor_kernel.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "client/cli/units.h"
#include "common/memory_segment.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr uint64_t kSegmentBytes = uint64_t{2} << 20;

absl::StatusOr<MemorySegment> MakeSegment() {
  return MemorySegment::Create("infercachectl-doctor", kSegmentBytes,
                               MemorySegment::Access::kReadOnlyForOthers);
}

absl::Status NotHeld(const char* what) {
  return absl::FailedPreconditionError(fmt::format("a sealed segment could be {}", what));
}

}  // namespace

absl::Status TrySealing() {
  ASSIGN_OR_RETURN(const MemorySegment segment, MakeSegment());
  void* const writable =
      mmap(nullptr, kSegmentBytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd(), /*offset=*/0);
  if (writable != MAP_FAILED) {
    munmap(writable, kSegmentBytes);
    return NotHeld("mapped writable");
  }
  void* const readable =
      mmap(nullptr, kSegmentBytes, PROT_READ, MAP_SHARED, segment.fd(), /*offset=*/0);
  if (readable == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, "mapping a sealed segment for reading");
  }
  const bool made_writable = mprotect(readable, kSegmentBytes, PROT_READ | PROT_WRITE) == 0;
  munmap(readable, kSegmentBytes);
  if (made_writable) return NotHeld("made writable by mprotect");
  if (pwrite(segment.fd(), "x", 1, /*offset=*/0) >= 0) return NotHeld("written");
  if (ftruncate(segment.fd(), 0) == 0) return NotHeld("resized");
  return absl::OkStatus();
}

absl::Status TryPopulate() {
  ASSIGN_OR_RETURN(MemorySegment segment, MakeSegment());
  return segment.Populate();
}

Finding SealingFinding(const absl::Status& tried) {
  constexpr char kCheck[] = "memfd_sealing";
  if (tried.ok()) {
    return {kCheck, Level::kOk, "memfd_create works, and a sealed segment cannot be written"};
  }
  return {kCheck, Level::kFail, std::string(tried.message()),
          "the daemon needs memfd_create with F_SEAL_FUTURE_WRITE: Linux 5.1 or newer, and a "
          "seccomp profile and a sandbox that let it through"};
}

Finding PopulateFinding(const absl::Status& tried) {
  constexpr char kCheck[] = "madv_populate_write";
  if (tried.ok()) return {kCheck, Level::kOk, "memory can be backed before it is used"};
  if (absl::IsResourceExhausted(tried)) {
    return {kCheck, Level::kFail, std::string(tried.message()),
            "there is not even room for 2 MiB: see memory and cgroup_memory"};
  }
  return {kCheck, Level::kFail, std::string(tried.message()),
          "the daemon needs MADV_POPULATE_WRITE to back its memory before it hands it out: Linux "
          "5.14 or newer"};
}

Finding PageSizeFinding(long page_bytes) {
  return {"page_size", Level::kOk,
          fmt::format("pages of {}", FormatSize(static_cast<double>(page_bytes)))};
}

std::vector<Finding> CheckKernel() {
  return {SealingFinding(TrySealing()), PopulateFinding(TryPopulate()),
          PageSizeFinding(sysconf(_SC_PAGESIZE))};
}

}  // namespace infercache::cli
