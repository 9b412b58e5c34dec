// A cursor over a Protobuf message that lies in several pieces. Not thread-safe; borrows the
// pieces.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "server/rpc/put_wire.h"

namespace infercache::rpc {

enum class WireType : uint8_t {
  kVarint = 0,
  kFixed64 = 1,
  kBytes = 2,
  kStartGroup = 3,
  kEndGroup = 4,
  kFixed32 = 5,
};

struct Tag {
  uint32_t field = 0;
  WireType type = WireType::kVarint;
};

// Every Read returns false when the input ends too early or breaks the encoding; the cursor is of
// no use then.
class WireReader {
 public:
  explicit WireReader(Pieces pieces);

  // At the end of the current message, or of the sub-message that EnterMessage began.
  bool at_end() const { return position_ == limit_; }
  bool ReadTag(Tag* tag);
  bool ReadVarint(uint64_t* value);
  // A length-delimited field's contents, passed over.
  bool ReadBytes(ByteRun* run);
  // The same, copied. Appends.
  bool ReadString(std::string* bytes);
  // Passes over the field that `tag` began, groups included.
  bool Skip(Tag tag);

  // Between these two the reader sees only the sub-message whose length comes next.
  // `outer_limit` is for LeaveMessage. REQUIRES for the latter: at_end().
  bool EnterMessage(size_t* outer_limit);
  void LeaveMessage(size_t outer_limit);

 private:
  bool ReadLength(size_t* length);
  bool ReadByte(uint8_t* byte);
  bool Advance(size_t bytes);
  void SkipEmptyPieces();

  const Pieces pieces_;
  size_t piece_ = 0;
  size_t offset_ = 0;    // in pieces_[piece_]
  size_t position_ = 0;  // from the first byte of the first piece
  size_t limit_ = 0;
  int depth_ = 0;
};

}  // namespace infercache::rpc
