#include "bench/compare/unix_connection.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

constexpr size_t kInitialBytes = size_t{1} << 20;

}  // namespace

UnixConnection::UnixConnection(const std::string& path)
    : path_(path), fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), buffer_(kInitialBytes) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) Die(absl::StrCat("socket path too long: ", path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Die(absl::StrCat("cannot connect to ", path, ": ", std::strerror(errno)));
  }
}

void UnixConnection::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) Die(absl::StrCat(path_, ": the server closed the connection"));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void UnixConnection::MakeRoom(size_t size) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ + size <= buffer_.size()) return;
  std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  if (size > buffer_.size()) buffer_.resize(size);
}

void UnixConnection::Receive() {
  if (end_ == buffer_.size()) MakeRoom(2 * (end_ - begin_) + 1);
  const ssize_t n = recv(fd_.get(), buffer_.data() + end_, buffer_.size() - end_, 0);
  if (n <= 0) Die(absl::StrCat(path_, ": the server closed the connection"));
  end_ += static_cast<size_t>(n);
}

std::string_view UnixConnection::ReadLine() {
  size_t searched = 0;
  while (true) {
    const std::string_view received(buffer_.data() + begin_, end_ - begin_);
    const size_t at = received.find("\r\n", searched);
    if (at != std::string_view::npos) {
      begin_ += at + 2;
      return received.substr(0, at);
    }
    searched = received.empty() ? 0 : received.size() - 1;
    Receive();
  }
}

std::string_view UnixConnection::Read(size_t size) {
  MakeRoom(size);
  while (end_ - begin_ < size) Receive();
  const std::string_view bytes(buffer_.data() + begin_, size);
  begin_ += size;
  return bytes;
}

void UnixConnection::Expect(std::string_view line) {
  const std::string_view got = ReadLine();
  if (got != line) {
    Die(absl::StrCat(path_, " answered \"", std::string(got), "\", not \"", std::string(line),
                     "\""));
  }
}

}  // namespace infercache::bench
