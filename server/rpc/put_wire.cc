#include "server/rpc/put_wire.h"

#ifdef __SSE2__
#include <emmintrin.h>  // every x86-64 CPU has it
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "server/rpc/error.h"
#include "server/rpc/wire_reader.h"

namespace infercache::rpc {
namespace {

bool Is(Tag tag, int field, WireType type) {
  return tag.field == static_cast<uint32_t>(field) && tag.type == type;
}

absl::Status Malformed(const char* message) {
  return WithReason(absl::InvalidArgumentError(std::string("the request is no valid ") + message),
                    "MALFORMED_MESSAGE");
}

absl::Status TooMany(std::string_view what, size_t limit, const char* reason) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(AbslView(what), ": more than ", limit,
                                                            " of them, which is the limit")),
                    reason);
}

// Passes over a scope and adds to `count` how many fingerprint entries it has.
bool CountFingerprint(WireReader& reader, size_t& count) {
  size_t outer_limit;
  if (!reader.EnterMessage(&outer_limit)) return false;
  while (!reader.at_end()) {
    Tag tag;
    if (!reader.ReadTag(&tag)) return false;
    if (Is(tag, v1::Scope::kFingerprintFieldNumber, WireType::kBytes)) ++count;
    if (!reader.Skip(tag)) return false;
  }
  reader.LeaveMessage(outer_limit);
  return true;
}

// Sub-messages that describe are small: copied, and left to Protobuf.
bool MergeMessage(WireReader& reader, google::protobuf::Message& message) {
  std::string bytes;
  return reader.ReadString(&bytes) && message.MergeFromString(bytes);
}

bool ReadItemField(WireReader& reader, Tag tag, PutItemView& view) {
  v1::PutItem& item = view.item;
  if (Is(tag, v1::PutItem::kValueFieldNumber, WireType::kBytes))
    return reader.ReadBytes(&view.value);
  if (Is(tag, v1::PutItem::kKeyFieldNumber, WireType::kBytes)) {
    item.clear_key();
    return reader.ReadString(item.mutable_key());
  }
  if (Is(tag, v1::PutItem::kInfoFieldNumber, WireType::kBytes)) {
    return MergeMessage(reader, *item.mutable_info());
  }
  if (Is(tag, v1::PutItem::kPartsFieldNumber, WireType::kBytes)) {
    if (static_cast<size_t>(item.parts_size()) > kMaxParts) return reader.Skip(tag);
    return MergeMessage(reader, *item.add_parts());
  }
  if (Is(tag, v1::PutItem::kOverwriteFieldNumber, WireType::kVarint)) {
    uint64_t value;
    if (!reader.ReadVarint(&value)) return false;
    item.set_overwrite(value != 0);
    return true;
  }
  return reader.Skip(tag);
}

bool ReadItem(WireReader& reader, PutItemView& view) {
  size_t outer_limit;
  if (!reader.EnterMessage(&outer_limit)) return false;
  while (!reader.at_end()) {
    Tag tag;
    if (!reader.ReadTag(&tag) || !ReadItemField(reader, tag, view)) return false;
  }
  reader.LeaveMessage(outer_limit);
  return true;
}

// Values from this size on are written past the CPU's caches. As a rule nobody reads them before
// many others are written, and a store that misses the cache reads its line first, only to
// overwrite it. glibc does this from a large part of the last level cache on; below, it uses `rep
// movsb`, which takes about twice the time for pieces of 8 to 16 KiB (AMD Zen 4).
constexpr size_t kStreamFromBytes = 64 << 10;

#ifdef __SSE2__
void StreamPiece(std::byte* to, std::string_view from) {
  constexpr size_t kLine = 64;
  constexpr size_t kWord = sizeof(__m128i);
  const size_t to_next_line = -reinterpret_cast<uintptr_t>(to) % kLine;
  const size_t head = std::min(to_next_line, from.size());
  std::memcpy(to, from.data(), head);
  to += head;
  from.remove_prefix(head);
  for (; from.size() >= kLine; to += kLine, from.remove_prefix(kLine)) {
    const auto* source = reinterpret_cast<const __m128i*>(from.data());
    auto* line = reinterpret_cast<__m128i*>(to);
    __m128i words[kLine / kWord];
    for (size_t i = 0; i < kLine / kWord; ++i) words[i] = _mm_loadu_si128(source + i);
    for (size_t i = 0; i < kLine / kWord; ++i) _mm_stream_si128(line + i, words[i]);
  }
  std::memcpy(to, from.data(), from.size());
}
// What was streamed is not ordered by the atomics that publish it.
void EndStreaming() { _mm_sfence(); }
#else
void StreamPiece(std::byte* to, std::string_view from) {
  std::memcpy(to, from.data(), from.size());
}
void EndStreaming() {}
#endif

}  // namespace

void CopyRun(Pieces pieces, const ByteRun& run, std::span<std::byte> destination) {
  size_t piece = run.piece;
  size_t offset = run.offset;
  const bool stream = run.size >= kStreamFromBytes;
  while (!destination.empty()) {
    const std::string_view source = pieces[piece].substr(offset, destination.size());
    if (stream) {
      StreamPiece(destination.data(), source);
    } else {
      std::memcpy(destination.data(), source.data(), source.size());
    }
    destination = destination.subspan(source.size());
    ++piece;
    offset = 0;
  }
  if (stream) EndStreaming();
}

absl::Status CheckCounts(Pieces pieces, std::string_view elements) {
  constexpr int kElements = v1::PutRequest::kItemsFieldNumber;
  static_assert(v1::GetRequest::kKeysFieldNumber == kElements &&
                v1::MatchRequest::kKeysFieldNumber == kElements &&
                v1::ExistsRequest::kKeysFieldNumber == kElements &&
                v1::DeleteRequest::kKeysFieldNumber == kElements &&
                v1::TouchRequest::kKeysFieldNumber == kElements);
  WireReader reader(pieces);
  size_t count = 0;
  size_t fingerprint = 0;
  while (!reader.at_end()) {
    Tag tag;
    bool ok = reader.ReadTag(&tag);
    if (ok && Is(tag, v1::PutRequest::kScopeFieldNumber, WireType::kBytes)) {
      ok = CountFingerprint(reader, fingerprint);
    } else if (ok) {
      if (Is(tag, kElements, WireType::kBytes)) ++count;
      ok = reader.Skip(tag);
    }
    if (!ok) break;
    if (count > kMaxKeysPerCall) return TooMany(elements, kMaxKeysPerCall, "TOO_MANY_KEYS");
    if (fingerprint > kMaxFingerprintEntries) {
      return TooMany("scope.fingerprint", kMaxFingerprintEntries, "INVALID_FINGERPRINT");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PutRequestView> ParsePutRequest(Pieces pieces) {
  WireReader reader(pieces);
  PutRequestView view;
  while (!reader.at_end()) {
    Tag tag;
    bool ok = reader.ReadTag(&tag);
    if (ok && Is(tag, v1::PutRequest::kItemsFieldNumber, WireType::kBytes)) {
      ok = ReadItem(reader, view.items.emplace_back());
    } else if (ok && Is(tag, v1::PutRequest::kScopeFieldNumber, WireType::kBytes)) {
      ok = MergeMessage(reader, view.scope);
    } else if (ok) {
      ok = reader.Skip(tag);
    }
    if (!ok) return Malformed("PutRequest");
  }
  return view;
}

absl::StatusOr<PutStreamRequestView> ParsePutStreamRequest(Pieces pieces) {
  WireReader reader(pieces);
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
      ok = MergeMessage(reader, *view.header);
    } else if (ok) {
      ok = reader.Skip(tag);
    }
    if (!ok) return Malformed("PutStreamRequest");
  }
  return view;
}

}  // namespace infercache::rpc
