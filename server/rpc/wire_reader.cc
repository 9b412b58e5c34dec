#include "server/rpc/wire_reader.h"

#include <algorithm>
#include <limits>

namespace infercache::rpc {
namespace {

// Protobuf's own limits, so that both agree on every input.
constexpr int kMaxDepth = 100;
constexpr int kMaxVarintBytes = 10;
constexpr int kMaxTagBytes = 5;
constexpr size_t kMaxLength = std::numeric_limits<int32_t>::max() - 16;

}  // namespace

WireReader::WireReader(Pieces pieces) : pieces_(pieces) {
  for (const std::string_view piece : pieces) limit_ += piece.size();
  SkipEmptyPieces();
}

void WireReader::SkipEmptyPieces() {
  while (piece_ < pieces_.size() && offset_ == pieces_[piece_].size()) {
    ++piece_;
    offset_ = 0;
  }
}

bool WireReader::ReadByte(uint8_t* byte) {
  if (at_end()) return false;
  *byte = static_cast<uint8_t>(pieces_[piece_][offset_]);
  ++offset_;
  ++position_;
  SkipEmptyPieces();
  return true;
}

bool WireReader::Advance(size_t bytes) {
  if (bytes > limit_ - position_) return false;
  position_ += bytes;
  while (bytes > 0) {
    const size_t step = std::min(bytes, pieces_[piece_].size() - offset_);
    offset_ += step;
    bytes -= step;
    SkipEmptyPieces();
  }
  return true;
}

bool WireReader::ReadVarint(uint64_t* value) {
  *value = 0;
  for (int i = 0; i < kMaxVarintBytes; ++i) {
    uint8_t byte;
    if (!ReadByte(&byte)) return false;
    *value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) return true;
  }
  return false;
}

bool WireReader::ReadTag(Tag* tag) {
  uint64_t bits = 0;
  for (int i = 0; i < kMaxTagBytes; ++i) {
    uint8_t byte;
    if (!ReadByte(&byte)) return false;
    bits |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte >= 0x80) continue;
    const uint32_t value = static_cast<uint32_t>(bits);
    if ((value & 7) > static_cast<uint32_t>(WireType::kFixed32) || value >> 3 == 0) return false;
    *tag = {.field = value >> 3, .type = static_cast<WireType>(value & 7)};
    return true;
  }
  return false;
}

bool WireReader::ReadLength(size_t* length) {
  uint64_t value = 0;
  for (int i = 0; i < kMaxTagBytes; ++i) {
    uint8_t byte;
    if (!ReadByte(&byte)) return false;
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte >= 0x80) continue;
    *length = value;
    return value <= kMaxLength && value <= limit_ - position_;
  }
  return false;
}

bool WireReader::ReadBytes(ByteRun* run) {
  size_t length;
  if (!ReadLength(&length)) return false;
  *run = {.piece = piece_, .offset = offset_, .size = length};
  return Advance(length);
}

bool WireReader::ReadString(std::string* bytes) {
  ByteRun run;
  if (!ReadBytes(&run)) return false;
  const size_t before = bytes->size();
  bytes->resize(before + run.size);
  CopyRun(pieces_, run, std::as_writable_bytes(std::span(*bytes)).subspan(before));
  return true;
}

bool WireReader::Skip(Tag tag) {
  switch (tag.type) {
    case WireType::kVarint: {
      uint64_t ignored;
      return ReadVarint(&ignored);
    }
    case WireType::kFixed64:
      return Advance(8);
    case WireType::kFixed32:
      return Advance(4);
    case WireType::kBytes: {
      ByteRun ignored;
      return ReadBytes(&ignored);
    }
    case WireType::kStartGroup: {
      if (++depth_ > kMaxDepth) return false;
      Tag inner;
      while (ReadTag(&inner)) {
        if (inner.type == WireType::kEndGroup) {
          --depth_;
          return inner.field == tag.field;
        }
        if (!Skip(inner)) return false;
      }
      return false;
    }
    case WireType::kEndGroup:
      return false;
  }
  return false;
}

bool WireReader::EnterMessage(size_t* outer_limit) {
  size_t length;
  if (!ReadLength(&length) || ++depth_ > kMaxDepth) return false;
  *outer_limit = limit_;
  limit_ = position_ + length;
  return true;
}

void WireReader::LeaveMessage(size_t outer_limit) {
  limit_ = outer_limit;
  --depth_;
}

}  // namespace infercache::rpc
