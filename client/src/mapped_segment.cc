#include "client/src/mapped_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"

namespace infercache {

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

absl::StatusOr<MappedSegment> MappedSegment::Map(const UniqueFd& fd, uint64_t size, bool writable) {
  struct stat status;
  if (fstat(fd.get(), &status) != 0) {
    return BadAnswer(absl::StrCat("fstat of a segment: ", strerror(errno)));
  }
  // What can still shrink can take the pages away from under a reader.
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return BadAnswer("a descriptor of something other than a sealed segment");
  }
  if (size == 0 || status.st_size < 0 || static_cast<uint64_t>(status.st_size) < size) {
    return BadAnswer(absl::StrCat("a segment of ", status.st_size, " bytes instead of ", size));
  }
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* base = mmap(nullptr, size, protection, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mmap of ", size, " bytes: ", strerror(errno)));
  }
  if (madvise(base, size, MADV_DONTFORK) != 0) {
    const int error = errno;
    munmap(base, size);
    return absl::ResourceExhaustedError(absl::StrCat("MADV_DONTFORK: ", strerror(error)));
  }
  return MappedSegment({static_cast<std::byte*>(base), size}, writable);
}

MappedSegment::MappedSegment(MappedSegment&& other) noexcept
    : guard_(other.guard_),
      bytes_(std::exchange(other.bytes_, {})),
      writable_(std::exchange(other.writable_, false)) {}

MappedSegment& MappedSegment::operator=(MappedSegment&& other) noexcept {
  std::swap(guard_, other.guard_);
  std::swap(bytes_, other.bytes_);
  std::swap(writable_, other.writable_);
  return *this;
}

bool MappedSegment::FillPageTables(uint64_t offset, uint64_t size) const {
  return madvise(bytes_.data() + offset, size,
                 writable_ ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0;
}

MappedSegment::~MappedSegment() {
  if (bytes_.empty() || guard_.inherited()) return;
  munmap(bytes_.data(), bytes_.size());
}

}  // namespace infercache
