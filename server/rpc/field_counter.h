// Counts what Protobuf would make of a message, before it does: two bytes on the wire, an empty
// element or a field that nobody knows, become a hundred in memory.

#pragma once

#include <google/protobuf/descriptor.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "server/rpc/wire_reader.h"

namespace infercache::rpc {

// What requests may have many of: their repeated fields, by name.
enum class Counted : uint8_t {
  kKeys,
  kItems,
  kParts,
  kShape,
  kClaims,
  kFingerprint,
  kRequiredFingerprint,
  kOther,  // what has no limit of its own, and fields that this version does not know
};
inline constexpr size_t kCountedKinds = 8;

// Of one message on the wire, or of all that a call reads bit by bit. Not thread-safe.
class FieldCounter {
 public:
  // Adds what `message`, of type `type`, holds at any depth. False: it is malformed, or there are
  // too many of something; failure() says which.
  bool Add(Pieces message, const google::protobuf::Descriptor& type);
  // One more, found by the caller. False: too many.
  bool Add(Counted what);

  // Not OK once there were too many: INVALID_ARGUMENT names what.
  const absl::Status& failure() const { return failure_; }

 private:
  // Each passes over what it adds. `type`: null = of an unknown message.
  bool AddField(WireReader& reader, Tag tag, const google::protobuf::Descriptor* type, int depth);
  bool AddMessage(WireReader& reader, const google::protobuf::Descriptor& type, int depth);
  bool AddGroup(WireReader& reader, Tag group, int depth);
  bool AddPacked(WireReader& reader, Counted what);

  std::array<size_t, kCountedKinds> counts_ = {};
  absl::Status failure_;
};

}  // namespace infercache::rpc
