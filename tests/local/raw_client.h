// A peer of the same-host lane that does exactly what a test tells it to, right or wrong: any
// bytes, any frames, any descriptors, in any order. It keeps no promise of docs/protocol.md by
// itself, retries nothing and has no thread.
//
// Every call that reads or writes has a deadline and fails with DEADLINE_EXCEEDED instead of
// hanging. UNAVAILABLE: the daemon has closed the connection. Not thread-safe; movable. May be used
// in a forked child.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/frame_channel.h"
#include "common/shm/index_layout.h"
#include "common/shm/session_page.h"
#include "common/unique_fd.h"
#include "infercache/types.h"
#include "infercache/v1/local.pb.h"

namespace infercache::local {

// Long enough for a machine that is busy with other tests.
inline constexpr absl::Duration kPatience = absl::Seconds(30);

// A mapping of shared memory that is not inherited by children. Movable.
class SharedMapping {
 public:
  SharedMapping() = default;
  // UNAVAILABLE names errno: the kernel refuses the mapping.
  static absl::StatusOr<SharedMapping> Map(int fd, size_t bytes, bool writable);
  SharedMapping(SharedMapping&& other) noexcept;
  SharedMapping& operator=(SharedMapping&& other) noexcept;
  ~SharedMapping();

  std::span<std::byte> bytes() const { return {base_, size_}; }

 private:
  std::byte* base_ = nullptr;
  size_t size_ = 0;
};

// What a Hello says.
struct Opening {
  std::string namespace_name;  // empty = "default"
  FingerprintEntries fingerprint = {};
  bool read_only = false;
  uint32_t version = 1;
  std::string client = "raw client";
  bool single_flight = true;
  std::string device = {};  // of a GPU: nothing maps its chunks but a driver
};

class RawClient {
 public:
  struct Received {
    v1::LocalResponse response;
    std::vector<UniqueFd> descriptors;
  };

  // UNAVAILABLE: nobody listens, or may not be reached.
  static absl::StatusOr<RawClient> Connect(const std::string& path);
  // Over a connected socket, which becomes non-blocking.
  explicit RawClient(UniqueFd socket);

  int socket() const { return socket_.get(); }
  void Close() { socket_.Reset(); }

  // --- Sending ---

  absl::Status SendBytes(std::string_view bytes, absl::Duration within = kPatience);
  // As much as the socket takes now. Returns how many bytes.
  absl::StatusOr<size_t> TrySendBytes(std::string_view bytes);
  // One sendmsg of `bytes` with `descriptors` beside them.
  absl::Status SendBytesWith(std::string_view bytes, std::span<const int> descriptors);
  // A frame as its sender describes it; see frame_channel.h.
  static std::string EncodeFrame(std::string_view body, uint8_t descriptors = 0);
  absl::Status SendFrame(std::string_view body) { return SendBytes(EncodeFrame(body)); }
  // As it is, without giving it an id.
  absl::Status Send(const v1::LocalRequest& request);

  // --- Receiving ---

  // The next response or event.
  absl::StatusOr<Received> Receive(absl::Duration within = kPatience);
  // OK once the daemon has closed the connection; what it sends before that is dropped.
  absl::Status AwaitClose(absl::Duration within = kPatience);

  // --- Both ---

  // Sends `request` under the next id and returns the answer to it. Events that come before it are
  // kept for goodbyes() and AwaitClaimEvent(). A code that is not 0 becomes the status.
  absl::StatusOr<Received> Ask(v1::LocalRequest request, absl::Duration within = kPatience);
  // The same with a descriptor beside the request.
  absl::StatusOr<Received> AskWith(v1::LocalRequest request, int descriptor);
  const std::deque<v1::Goodbye>& goodbyes() const { return goodbyes_; }
  // The next Goodbye, whether it has come already or not.
  absl::StatusOr<v1::Goodbye> AwaitGoodbye(absl::Duration within = kPatience);
  // The next of the events that tell how waits ended.
  absl::StatusOr<v1::ClaimEvent> AwaitClaimEvent(absl::Duration within = kPatience);

  // --- A session ---

  // What the next events about lent tensors say, whether they have come already or not: at least
  // one number.
  absl::StatusOr<v1::LentEvents> AwaitLentEvents(absl::Duration within = kPatience);
  // What of them has come while it asked for other things.
  const v1::LentEvents& lent_events() const { return lent_events_; }

  static v1::LocalRequest MakeHello(const Opening& opening);
  // Hello, and maps what comes beside the Welcome.
  absl::Status Open(const Opening& opening = {});
  // Maps all chunks, for writing if the session may.
  absl::Status MapChunks();
  // What MapChunks asks for, as it comes.
  absl::StatusOr<std::vector<UniqueFd>> FetchChunks();

  // REQUIRES for what follows: Open.
  const v1::Welcome& welcome() const { return welcome_; }
  const UniqueFd& index_descriptor() const { return index_fd_; }
  const UniqueFd& page_descriptor() const { return page_fd_; }
  shm::IndexView index() const { return shm::IndexView(index_.bytes()); }
  shm::SessionPage page() const { return {page_.bytes(), welcome_.slot_capacity()}; }
  std::span<std::byte> page_memory() const { return page_.bytes(); }
  // REQUIRES: MapChunks.
  std::span<std::byte> chunk(uint32_t i) const { return chunks_[i].bytes(); }
  size_t mapped_chunks() const { return chunks_.size(); }

 private:
  absl::StatusOr<Received> AwaitAnswer(uint64_t id, absl::Time deadline);
  void KeepEvent(const v1::LocalResponse& event);

  UniqueFd socket_;
  std::unique_ptr<FrameReader> reader_;
  std::deque<Received> received_;
  bool closed_ = false;
  uint64_t last_id_ = 0;
  std::deque<v1::Goodbye> goodbyes_;
  std::deque<v1::ClaimEvent> claim_events_;
  v1::LentEvents lent_events_;

  v1::Welcome welcome_;
  UniqueFd index_fd_, page_fd_;
  SharedMapping index_, page_;
  std::vector<SharedMapping> chunks_;
};

}  // namespace infercache::local
