#include "server/rpc/put_wire.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/limits.h"
#include "common/stream_copy.h"
#include "server/rpc/error.h"
#include "server/rpc/field_counter.h"
#include "server/rpc/wire_reader.h"

namespace infercache::rpc {
namespace {

bool Is(Tag tag, int field, WireType type) {
  return tag.field == static_cast<uint32_t>(field) && tag.type == type;
}

// What `counter` has too many of; else the message is malformed.
absl::Status Refusal(const FieldCounter& counter, const std::string& message) {
  return counter.failure().ok() ? Malformed(message) : counter.failure();
}

// Sub-messages that describe are small: copied, counted, and left to Protobuf.
bool MergeMessage(WireReader& reader, FieldCounter& counter, google::protobuf::Message& message) {
  std::string bytes;
  if (!reader.ReadString(&bytes)) return false;
  const std::string_view piece = bytes;
  return counter.Add({&piece, 1}, *message.GetDescriptor()) && message.MergeFromString(bytes);
}

bool ReadItemField(WireReader& reader, Tag tag, FieldCounter& counter, PutItemView& view) {
  v1::PutItem& item = view.item;
  if (Is(tag, v1::PutItem::kValueFieldNumber, WireType::kBytes))
    return reader.ReadBytes(&view.value);
  if (Is(tag, v1::PutItem::kKeyFieldNumber, WireType::kBytes)) {
    item.clear_key();
    return reader.ReadString(item.mutable_key());
  }
  if (Is(tag, v1::PutItem::kInfoFieldNumber, WireType::kBytes)) {
    return MergeMessage(reader, counter, *item.mutable_info());
  }
  if (Is(tag, v1::PutItem::kPartsFieldNumber, WireType::kBytes)) {
    if (static_cast<size_t>(item.parts_size()) > kMaxParts) return reader.Skip(tag);
    return counter.Add(Counted::kParts) && MergeMessage(reader, counter, *item.add_parts());
  }
  if (Is(tag, v1::PutItem::kOverwriteFieldNumber, WireType::kVarint)) {
    uint64_t value;
    if (!reader.ReadVarint(&value)) return false;
    item.set_overwrite(value != 0);
    return true;
  }
  return reader.Skip(tag);
}

bool ReadItem(WireReader& reader, FieldCounter& counter, PutItemView& view) {
  size_t outer_limit;
  if (!reader.EnterMessage(&outer_limit)) return false;
  while (!reader.at_end()) {
    Tag tag;
    if (!reader.ReadTag(&tag) || !ReadItemField(reader, tag, counter, view)) return false;
  }
  reader.LeaveMessage(outer_limit);
  return true;
}

}  // namespace

void CopyRun(Pieces pieces, const ByteRun& run, std::span<std::byte> destination) {
  size_t piece = run.piece;
  size_t offset = run.offset;
  const bool stream = run.size >= kStreamFromBytes;
  while (!destination.empty()) {
    const std::string_view source = pieces[piece].substr(offset, destination.size());
    if (stream) {
      StreamCopy(destination.data(), std::as_bytes(std::span(source)));
    } else {
      std::memcpy(destination.data(), source.data(), source.size());
    }
    destination = destination.subspan(source.size());
    ++piece;
    offset = 0;
  }
  if (stream) EndStreaming();
}

absl::Status Malformed(const std::string& message) {
  return WithReason(absl::InvalidArgumentError("the request is no valid " + message),
                    "MALFORMED_MESSAGE");
}

absl::Status CheckCounts(Pieces pieces, const google::protobuf::Descriptor& type) {
  FieldCounter counter;
  return counter.Add(pieces, type) ? absl::OkStatus() : Refusal(counter, type.name());
}

absl::StatusOr<PutRequestView> ParsePutRequest(Pieces pieces) {
  WireReader reader(pieces);
  FieldCounter counter;
  PutRequestView view;
  while (!reader.at_end()) {
    Tag tag;
    bool ok = reader.ReadTag(&tag);
    if (ok && Is(tag, v1::PutRequest::kItemsFieldNumber, WireType::kBytes)) {
      ok = counter.Add(Counted::kItems) && ReadItem(reader, counter, view.items.emplace_back());
    } else if (ok && Is(tag, v1::PutRequest::kScopeFieldNumber, WireType::kBytes)) {
      ok = MergeMessage(reader, counter, view.scope);
    } else if (ok) {
      ok = reader.Skip(tag);
    }
    if (!ok) return Refusal(counter, "PutRequest");
  }
  return view;
}

absl::StatusOr<PutStreamRequestView> ParsePutStreamRequest(Pieces pieces) {
  WireReader reader(pieces);
  FieldCounter counter;
  PutStreamRequestView view;
  while (!reader.at_end()) {
    Tag tag;
    bool ok = reader.ReadTag(&tag);
    if (ok && Is(tag, v1::PutStreamRequest::kChunkFieldNumber, WireType::kBytes)) {
      view.header.reset();
      ok = reader.ReadBytes(&view.chunk.emplace());
    } else if (ok && Is(tag, v1::PutStreamRequest::kHeaderFieldNumber, WireType::kBytes)) {
      view.chunk.reset();
      if (!view.header) view.header.emplace();
      ok = MergeMessage(reader, counter, *view.header);
    } else if (ok) {
      ok = reader.Skip(tag);
    }
    if (!ok) return Refusal(counter, "PutStreamRequest");
  }
  return view;
}

}  // namespace infercache::rpc
