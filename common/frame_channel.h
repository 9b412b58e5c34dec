// Frames over a Unix stream socket, with descriptors beside them: how the same-host lane talks.
//
//   0        4        5            8
//   +--------+--------+------------+------------------+
//   | u32 n  | u8 fds | 0, 0, 0    | n bytes of body  |     integers little-endian
//   +--------+--------+------------+------------------+
//
// The descriptors (SCM_RIGHTS) travel with the header's first byte. Neither class owns the socket,
// which is non-blocking. Not thread-safe: one user of each at a time.

#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/limits.h"
#include "common/unique_fd.h"

namespace infercache {

inline constexpr size_t kFrameHeaderBytes = 8;

// Takes a stream apart into frames.
class FrameReader {
 public:
  // `body` is valid during the call. An error ends Read and is its result. Descriptors that this
  // process had no room for are there, but not valid.
  using OnFrame = absl::FunctionRef<absl::Status(std::string_view body, std::vector<UniqueFd> fds)>;

  // A peer that sends more than `max_descriptors` beside a frame, or a larger body, breaks the
  // protocol; whatever it sends is closed, by `closer` if there is one. If that number is 0,
  // descriptors are not even taken out of the socket, and so not closed by reading.
  explicit FrameReader(int max_descriptors, uint32_t max_body_bytes = kMaxFrameBytes,
                       Closer* closer = nullptr)
      : max_descriptors_(max_descriptors), max_body_bytes_(max_body_bytes), closer_(closer) {}

  // From the next frame on; may be called while one is handed out.
  void set_max_body_bytes(uint32_t bytes) { max_body_bytes_ = bytes; }
  void set_max_descriptors(int count) { max_descriptors_ = count; }

  // Reads what the socket has, but not much more than `budget` bytes, and hands out whole frames.
  // True: it read all there was. False: there may be more. UNAVAILABLE: the peer has closed,
  // between two frames (message "closed") or inside one. INVALID_ARGUMENT: the stream breaks the
  // protocol, and the message says how. After an error the reader is of no use any more.
  absl::StatusOr<bool> Read(int socket, size_t budget, OnFrame on_frame);

  // What it keeps between two calls: at most 256 KiB, unless the beginning of a frame is there, and
  // then no more than a few times what has come of it.
  size_t buffer_bytes() const { return buffer_.capacity(); }

 private:
  absl::StatusOr<size_t> Receive(int socket, size_t room);
  // The next bytes, of those that `room` takes, beside which there is no descriptor.
  static absl::StatusOr<size_t> Peek(int socket, iovec room);
  absl::Status Deliver(OnFrame on_frame);
  // Puts invalid ones in the place of descriptors that were lost with the bytes received last.
  void StandInForLost();

  int max_descriptors_;
  uint32_t max_body_bytes_;
  Closer* const closer_;
  std::string buffer_;        // from the first byte of a frame on
  size_t filled_ = 0;         // bytes of buffer_ that were received
  std::deque<UniqueFd> fds_;  // received, not yet claimed by a frame
  bool lost_ = false;         // descriptors, for want of room
};

// Sends frames in order, as far as the socket takes them.
class FrameWriter {
 public:
  // Queues a frame. REQUIRES: body of at most kMaxFrameBytes, at most kMaxFrameDescriptors fds,
  // which stay open until they are sent and are then closed here.
  void Add(std::string_view body, std::vector<UniqueFd> fds = {});
  // True: everything is sent. False: the socket is full. UNAVAILABLE: the peer is gone.
  absl::StatusOr<bool> Flush(int socket);

  bool empty() const { return queue_.empty(); }
  size_t unsent_bytes() const { return unsent_bytes_; }

 private:
  struct Chunk {
    std::string bytes;
    std::vector<UniqueFd> fds;  // to go with the first byte
  };

  std::deque<Chunk> queue_;
  size_t sent_ = 0;  // of the first chunk
  size_t unsent_bytes_ = 0;
};

}  // namespace infercache
