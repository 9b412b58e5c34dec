#include "client/src/local_writes.h"

#include <algorithm>

#include "client/src/daemon_status.h"
#include "common/limits.h"
#include "convert/types.h"

namespace infercache {
namespace {

constexpr size_t kWindowBytes = size_t{4} << 20;
static_assert(kWindowBytes < kMaxUnsentRequestBytes);

}  // namespace

absl::Status CheckObjectBytes(uint64_t size_bytes) {
  if (size_bytes > 0) return absl::OkStatus();
  return absl::InvalidArgumentError("value: empty; an object has at least one byte");
}

void FillReserveItem(std::string_view key, uint64_t size_bytes, const ObjectInfo& info,
                     std::span<const PartSpec> parts, bool overwrite, v1::ReserveItem* proto) {
  proto->set_key(key.data(), key.size());
  proto->set_size_bytes(size_bytes);
  ToProto(parts, proto->mutable_parts());
  if (info != ObjectInfo{}) ToProto(info, proto->mutable_info());
  proto->set_overwrite(overwrite);
}

PutResult FromProto(const v1::LocalPutResult& proto) {
  switch (proto.outcome()) {
    case v1::LOCAL_PUT_STORED:
      return {.outcome = PutOutcome::kStored};
    case v1::LOCAL_PUT_EXISTS:
      return {.outcome = PutOutcome::kExists};
    case v1::LOCAL_PUT_REFUSED:
      return {.status = SaidByDaemon(proto.code(), proto.message())};
    default:
      return {.status = BadAnswer("a put without an outcome")};
  }
}

void WriteQueue::Add(uint64_t reservation, std::span<const std::byte> bytes) {
  pieces_.push_back({reservation, 0, bytes});
}

absl::StatusOr<bool> WriteQueue::Next(LocalConnection& connection, v1::LocalRequest* ping) {
  if (pieces_.empty()) return false;
  size_t window = 0;
  while (!pieces_.empty() && window < kWindowBytes) {
    Piece& piece = pieces_.front();
    const size_t count = std::min<size_t>(piece.bytes.size(), kMaxWriteBytes);
    v1::LocalRequest request;
    v1::Write& write = *request.mutable_write();
    write.set_reservation(piece.reservation);
    write.set_offset(piece.offset);
    write.set_data(piece.bytes.data(), count);
    if (!connection.Tell(request)) {
      // A broken one has more to say about that, to whoever asks it for an answer.
      if (connection.broken()) break;
      return absl::ResourceExhaustedError("too much waits to be sent to the daemon");
    }
    piece.offset += count;
    piece.bytes = piece.bytes.subspan(count);
    window += count;
    if (piece.bytes.empty()) pieces_.pop_front();
  }
  ping->mutable_ping();
  return true;
}

}  // namespace infercache
