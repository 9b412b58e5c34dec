// What puts have in common: describing objects, sending bytes for a session that may not write in
// place, making sense of results.

#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/local_session.h"
#include "common/limits.h"
#include "infercache/client.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

// A batch is cut into requests of this many bytes, which leaves room for what is around the items.
inline constexpr size_t kMaxRequestBytes = kMaxFrameBytes - 4096;
// Tag and length of an item.
inline constexpr size_t kItemOverhead = 8;

// INVALID_ARGUMENT: an object has at least one byte.
absl::Status CheckObjectBytes(uint64_t size_bytes);

void FillReserveItem(std::string_view key, uint64_t size_bytes, const ObjectInfo& info,
                     std::span<const PartSpec> parts, bool overwrite, v1::ReserveItem* proto);

PutResult FromProto(const v1::LocalPutResult& proto);

// Bytes on their way to reservations in Write frames. The daemon's answer to the Ping behind each
// window of them says that they were taken, so that no more than a window waits in the socket.
class WriteQueue {
 public:
  // `bytes` outlive the queue.
  void Add(uint64_t reservation, std::span<const std::byte> bytes);
  // Sends the next window and fills in its Ping; false if there is nothing to send.
  // RESOURCE_EXHAUSTED: the connection takes no more; the queue is of no use any more.
  absl::StatusOr<bool> Next(LocalConnection& connection, v1::LocalRequest* ping);

 private:
  struct Piece {
    uint64_t reservation;
    uint64_t offset;
    std::span<const std::byte> bytes;  // not sent yet
  };

  std::deque<Piece> pieces_;
};

}  // namespace infercache
