#include "common/duplicate_fd.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace infercache {

absl::StatusOr<UniqueFd> Duplicate(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (copy.valid()) return copy;
  return absl::ResourceExhaustedError(absl::StrCat("F_DUPFD_CLOEXEC: ", strerror(errno)));
}

}  // namespace infercache
