// Owns one file descriptor and closes it, or has it closed by a Closer: for one that a stranger
// made. Move-only; not thread-safe.

#pragma once

#include <unistd.h>

#include <utility>

namespace infercache {

class Closer;
// Has the closer close it.
void CloseBy(Closer& closer, int fd);

class UniqueFd {
 public:
  UniqueFd() = default;
  // `closer`, if there is one, outlives it.
  explicit UniqueFd(int fd, Closer* closer = nullptr) : fd_(fd), closer_(closer) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)), closer_(other.closer_) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
      closer_ = other.closer_;
    }
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  Closer* closer() const { return closer_; }
  // The caller owns the descriptor from here on.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }
  void Reset() {
    if (fd_ < 0) return;
    const int fd = std::exchange(fd_, -1);
    closer_ == nullptr ? static_cast<void>(close(fd)) : CloseBy(*closer_, fd);
  }

 private:
  int fd_ = -1;
  Closer* closer_ = nullptr;
};

}  // namespace infercache
