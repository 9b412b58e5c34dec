#include "common/frame_channel.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/received_descriptors.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

constexpr size_t kFirstBufferBytes = 16 * 1024;
// A larger buffer is given back as soon as it is empty.
constexpr size_t kMostKeptBytes = 256 * 1024;
// Frames that one sendmsg takes.
constexpr size_t kPiecesAtOnce = 16;

uint32_t BodyBytes(const char* header) {
  uint32_t size;
  std::memcpy(&size, header, sizeof size);
  return size;
}

// Nothing is wrong with the peer: nothing is there, there is no room, or the kernel is short of
// memory for the moment.
bool ShouldTryAgain(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == ENOMEM;
}

absl::Status CheckHeader(const char* header, int max_descriptors, uint32_t max_body_bytes) {
  const uint32_t size = BodyBytes(header);
  const int fds = static_cast<unsigned char>(header[4]);
  if (size > max_body_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame of ", size, " bytes; the limit is ", max_body_bytes));
  }
  if (fds > max_descriptors) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame with ", fds, " descriptors; the limit is ", max_descriptors));
  }
  if (header[5] != 0 || header[6] != 0 || header[7] != 0) {
    return absl::InvalidArgumentError("frame header with bytes that must be 0");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<size_t> FrameReader::Peek(int socket, iovec room) {
  msghdr message = {};
  message.msg_iov = &room;
  message.msg_iovlen = 1;
  ssize_t seen;
  do {
    seen = recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT);
  } while (seen < 0 && errno == EINTR);
  if (seen < 0 && !ShouldTryAgain(errno)) {
    return absl::UnavailableError(absl::StrCat("recvmsg: ", strerror(errno)));
  }
  if (seen > 0 && (message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::InvalidArgumentError("descriptors beside a frame that takes none");
  }
  return seen > 0 ? static_cast<size_t>(seen) : room.iov_len;  // reading says why there are none
}

absl::StatusOr<size_t> FrameReader::Receive(int socket, size_t room) {
  if (buffer_.size() < filled_ + room) buffer_.resize(filled_ + room);
  iovec piece = {.iov_base = buffer_.data() + filled_, .iov_len = buffer_.size() - filled_};
  if (max_descriptors_ == 0) {
    ASSIGN_OR_RETURN(piece.iov_len, Peek(socket, piece));
  }
  // What there is no room for is closed by reading, and may take as long as its sender likes.
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxMessageDescriptors)];
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (ShouldTryAgain(errno)) return 0;
    return absl::UnavailableError(absl::StrCat("recvmsg: ", strerror(errno)));
  }
  TakeReceivedDescriptors(message, [this](int fd) { fds_.emplace_back(fd, closer_); });
  // There was room for all that the kernel lets travel: this process has too many descriptors.
  lost_ |= (message.msg_flags & MSG_CTRUNC) != 0;
  if (fds_.size() > static_cast<size_t>(max_descriptors_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", max_descriptors_, " descriptors beside a frame"));
  }
  if (received == 0) {
    return absl::UnavailableError(filled_ == 0 ? "closed" : "closed in the middle of a frame");
  }
  filled_ += static_cast<size_t>(received);
  return static_cast<size_t>(received);
}

void FrameReader::StandInForLost() {
  size_t named = 0, start = 0;
  while (start < filled_) {
    // Its header comes with the next bytes.
    if (filled_ - start < kFrameHeaderBytes) return;
    const char* header = buffer_.data() + start;
    named += static_cast<unsigned char>(header[4]);
    start += kFrameHeaderBytes + BodyBytes(header);
  }
  // Those of a frame are the last ones that come with a message.
  if (fds_.size() < named) fds_.resize(named);
  lost_ = false;
}

absl::Status FrameReader::Deliver(OnFrame on_frame) {
  if (lost_) StandInForLost();
  size_t start = 0;
  while (filled_ - start >= kFrameHeaderBytes) {
    const char* header = buffer_.data() + start;
    RETURN_IF_ERROR(CheckHeader(header, max_descriptors_, max_body_bytes_));
    const size_t body_bytes = BodyBytes(header);
    if (filled_ - start < kFrameHeaderBytes + body_bytes) break;
    const size_t fd_count = static_cast<unsigned char>(header[4]);
    if (fds_.size() < fd_count) {
      return absl::InvalidArgumentError("frame without the descriptors that its header names");
    }
    std::vector<UniqueFd> fds(std::make_move_iterator(fds_.begin()),
                              std::make_move_iterator(fds_.begin() + fd_count));
    fds_.erase(fds_.begin(), fds_.begin() + fd_count);
    RETURN_IF_ERROR(on_frame({header + kFrameHeaderBytes, body_bytes}, std::move(fds)));
    start += kFrameHeaderBytes + body_bytes;
  }
  // What is left is the beginning of one frame.
  if (start > 0) {
    std::memmove(buffer_.data(), buffer_.data() + start, filled_ - start);
    filled_ -= start;
  }
  if (filled_ == 0 && buffer_.capacity() > kMostKeptBytes) std::string().swap(buffer_);
  return absl::OkStatus();
}

absl::StatusOr<bool> FrameReader::Read(int socket, size_t budget, OnFrame on_frame) {
  for (size_t total = 0; total < budget;) {
    size_t room = kFirstBufferBytes;
    if (filled_ >= kFrameHeaderBytes) {
      // CheckHeader has bounded it. No more at once than has come: a header alone claims nothing.
      const size_t rest = kFrameHeaderBytes + BodyBytes(buffer_.data()) - filled_;
      room = std::max(room, std::min(rest, filled_));
    }
    ASSIGN_OR_RETURN(const size_t received, Receive(socket, room));
    if (received == 0) return true;
    total += received;
    const bool drained = filled_ < buffer_.size();
    RETURN_IF_ERROR(Deliver(on_frame));
    if (drained) return true;  // the next readiness tells of what has come since
  }
  return false;
}

void FrameWriter::Add(std::string_view body, std::vector<UniqueFd> fds) {
  const auto size = static_cast<uint32_t>(body.size());
  Chunk chunk;
  chunk.bytes.reserve(kFrameHeaderBytes + body.size());
  chunk.bytes.append(reinterpret_cast<const char*>(&size), sizeof size);
  chunk.bytes.push_back(static_cast<char>(fds.size()));
  chunk.bytes.append(3, '\0');
  chunk.bytes.append(body);
  chunk.fds = std::move(fds);
  unsent_bytes_ += chunk.bytes.size();
  queue_.push_back(std::move(chunk));
}

absl::StatusOr<bool> FrameWriter::Flush(int socket) {
  while (!queue_.empty()) {
    // A frame with descriptors goes alone: they belong to its first byte.
    iovec pieces[kPiecesAtOnce];
    size_t count = 0;
    for (const Chunk& chunk : queue_) {
      if (count == kPiecesAtOnce || (count > 0 && !chunk.fds.empty())) break;
      const size_t skip = count == 0 ? sent_ : 0;
      pieces[count++] = {.iov_base = const_cast<char*>(chunk.bytes.data()) + skip,
                         .iov_len = chunk.bytes.size() - skip};
      if (!chunk.fds.empty()) break;
    }
    msghdr message = {};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFrameDescriptors)] = {};
    std::vector<UniqueFd>& fds = queue_.front().fds;
    if (sent_ == 0 && !fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      for (size_t i = 0; i < fds.size(); ++i) {
        const int fd = fds[i].get();
        std::memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
      }
    }
    const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      // ETOOMANYREFS: too many descriptors of this user are on their way; they will be taken.
      if (ShouldTryAgain(errno) || errno == ETOOMANYREFS) return false;
      return absl::UnavailableError(absl::StrCat("sendmsg: ", strerror(errno)));
    }
    unsent_bytes_ -= static_cast<size_t>(sent);
    sent_ += static_cast<size_t>(sent);
    if (sent > 0) fds.clear();
    while (!queue_.empty() && sent_ >= queue_.front().bytes.size()) {
      sent_ -= queue_.front().bytes.size();
      queue_.pop_front();
    }
  }
  return true;
}

}  // namespace infercache
