#include "common/memory_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

// Since Linux 5.1 and 5.14; older C libraries do not name them.
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21 << 26)
#endif

namespace infercache {
namespace {

absl::Status SystemError(const char* call, uint64_t size) {
  const int error = errno;
  const std::string what = absl::StrCat(call, " of a ", size, "-byte memory segment");
  const bool out_of_room = error == ENOMEM || error == ENOSPC || error == EMFILE || error == ENFILE;
  return out_of_room ? absl::ResourceExhaustedError(absl::StrCat(what, ": ", strerror(error)))
                     : absl::ErrnoToStatus(error, what);
}

constexpr char kHugePagesDirectory[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

uint64_t ReadNumber(const std::string& path) {
  uint64_t number = 0;
  std::ifstream(path) >> number;  // stays 0 where there is no such file
  return number;
}

uint64_t FreeHugePages() {
  const uint64_t free = ReadNumber(absl::StrCat(kHugePagesDirectory, "free_hugepages"));
  return free - std::min(free, ReadNumber(absl::StrCat(kHugePagesDirectory, "resv_hugepages")));
}

// Whether madvise(MADV_HUGEPAGE) does anything for a memfd.
bool SharedMemoryMayBeThp() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string choice;
  while (file >> choice) {
    if (choice.front() == '[') return choice != "[never]" && choice != "[deny]";
  }
  return false;
}

}  // namespace

const char* PageKindName(PageKind kind) {
  switch (kind) {
    case PageKind::k4k:
      return "4k";
    case PageKind::kThp:
      return "thp";
    case PageKind::kHugetlb:
      return "hugetlb";
  }
  return "unknown";
}

PageKind ChoosePages(PageChoice choice, uint64_t bytes, bool hugetlb) {
  switch (choice) {
    case PageChoice::k4k:
      return PageKind::k4k;
    case PageChoice::kThp:
      return PageKind::kThp;
    case PageChoice::kHugetlb:
      return PageKind::kHugetlb;
    case PageChoice::kAuto:
      break;
  }
  if (bytes < kHugePageBytes) return PageKind::k4k;
  const uint64_t pages = (bytes + kHugePageBytes - 1) / kHugePageBytes;
  if (hugetlb && FreeHugePages() >= pages) return PageKind::kHugetlb;
  return SharedMemoryMayBeThp() ? PageKind::kThp : PageKind::k4k;
}

absl::StatusOr<MemorySegment> MemorySegment::Create(const std::string& name, uint64_t size,
                                                    Access access, PageKind pages) {
  const bool huge = pages == PageKind::kHugetlb;
  const uint64_t page = huge ? kHugePageBytes : static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  size = (size + page - 1) / page * page;
  const unsigned huge_flags = huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  UniqueFd fd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | huge_flags));
  if (!fd.valid()) return SystemError("memfd_create", size);
  if (fchmod(fd.get(), 0600) != 0) return SystemError("fchmod", size);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return SystemError("ftruncate", size);
  // Huge pages are reserved here or refused; a fault that finds none would be a SIGBUS.
  const int reserve = huge ? 0 : MAP_NORESERVE;
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | reserve, fd.get(), 0);
  if (base == MAP_FAILED) {
    const absl::Status why = SystemError("mmap", size);
    if (!huge) return why;
    return absl::Status(why.code(), absl::StrCat(why.message(), "; it takes ", size / page,
                                                 " free pages of 2 MiB (vm.nr_hugepages)"));
  }
  MemorySegment segment(std::move(fd), static_cast<std::byte*>(base), size, huge);
  // A wish: where the kernel has no huge page at hand, small ones do.
  if (pages == PageKind::kThp) (void)madvise(base, size, MADV_HUGEPAGE);
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  // Only after our own writable mapping stands: from here on nobody can make another.
  if (access == Access::kReadOnlyForOthers) seals |= F_SEAL_FUTURE_WRITE;
  if (fcntl(segment.fd(), F_ADD_SEALS, seals) != 0) return SystemError("F_ADD_SEALS", size);
  return segment;
}

MemorySegment::MemorySegment(UniqueFd fd, std::byte* base, size_t size, bool reserved)
    : fd_(std::move(fd)), base_(base), size_(size), reserved_(reserved) {}

MemorySegment::MemorySegment(MemorySegment&& other) noexcept
    : fd_(std::move(other.fd_)),
      base_(std::exchange(other.base_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      reserved_(other.reserved_) {}

MemorySegment& MemorySegment::operator=(MemorySegment&& other) noexcept {
  if (this != &other) {
    if (base_ != nullptr) munmap(base_, size_);
    fd_ = std::move(other.fd_);
    base_ = std::exchange(other.base_, nullptr);
    size_ = std::exchange(other.size_, 0);
    reserved_ = other.reserved_;
  }
  return *this;
}

MemorySegment::~MemorySegment() {
  if (base_ != nullptr) munmap(base_, size_);
}

absl::Status MemorySegment::Populate(const Populating& how) {
  // In steps, so that a signal interrupts no more than one of them, and that others who take memory
  // meanwhile, as for another namespace, are seen.
  constexpr size_t kStep = size_t{64} << 20;
  for (size_t done = 0; done < size_;) {
    if (how.stopping && how.stopping()) {
      return absl::UnavailableError(
          absl::StrCat("stopped after ", done, " of ", size_, " bytes were backed with memory"));
    }
    if (!reserved_) RETURN_IF_ERROR(how.room.Check(size_ - done));
    const size_t step = std::min(kStep, size_ - done);
    if (madvise(base_ + done, step, MADV_POPULATE_WRITE) == 0) {
      done += step;
    } else if (errno == EFAULT || errno == ENOMEM || errno == EHWPOISON) {
      return absl::ResourceExhaustedError(
          absl::StrCat("not enough memory to back a segment of ", size_, " bytes"));
    } else if (errno != EINTR && errno != EAGAIN) {
      return SystemError("madvise(MADV_POPULATE_WRITE)", size_);
    }
  }
  return absl::OkStatus();
}

absl::Status MemorySegment::Lock() {
  if (mlock(base_, size_) == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("mlock of a ", size_, "-byte memory segment: ", strerror(errno),
                   "; RLIMIT_MEMLOCK bounds what a process may lock"));
}

absl::StatusOr<UniqueFd> MemorySegment::OpenReadOnly() const {
  UniqueFd fd(open(absl::StrCat("/proc/self/fd/", fd_.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return SystemError("open for reading", size_);
  return fd;
}

}  // namespace infercache
