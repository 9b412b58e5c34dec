#include "client/cli/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/unique_fd.h"

namespace infercache::cli {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;

absl::Status ReadAll(int fd, const std::string& name, std::string& text) {
  size_t used = 0;
  while (true) {
    if (used == text.size()) text.resize(std::max(text.size() * 2, kChunkBytes));
    const ssize_t got = read(fd, text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("reading ", name));
    if (got == 0) break;
    used += static_cast<size_t>(got);
  }
  text.resize(used);
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, const std::string& name, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return absl::ErrnoToStatus(errno, absl::StrCat("writing ", name));
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::string text;
  absl::Status status;
  if (path == "-") {
    status = ReadAll(STDIN_FILENO, "standard input", text);
  } else {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("opening ", path));
    struct stat info {};
    // One byte more than the file has, so that its end is seen without growing the buffer.
    if (fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode)) {
      text.resize(static_cast<size_t>(info.st_size) + 1);
    }
    status = ReadAll(fd.get(), path, text);
  }
  if (!status.ok()) return status;
  return text;
}

absl::Status WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  if (path == "-") return WriteAll(STDOUT_FILENO, "standard output", bytes);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("opening ", path));
  if (auto status = WriteAll(fd.get(), path, bytes); !status.ok()) return status;
  // A full disk may show only now.
  if (close(fd.Release()) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("closing ", path));
  return absl::OkStatus();
}

}  // namespace infercache::cli
