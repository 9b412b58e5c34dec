#include "server/rpc/field_counter.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "server/rpc/error.h"
#include "server/rpc/wire_reader.h"

namespace infercache::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Protobuf's own limit on what lies within each other.
constexpr int kMostNested = 100;

struct Limit {
  std::string_view field;
  size_t most;
  const char* reason;
};
// In the order of Counted.
constexpr Limit kLimits[kCountedKinds] = {
    {"keys", kMaxKeysPerCall, "TOO_MANY_KEYS"},
    {"items", kMaxKeysPerCall, "TOO_MANY_KEYS"},
    {"parts", kMaxPartsPerCall, "INVALID_PARTS"},
    {"shape", kMaxPartsPerCall* kMaxRank, "INVALID_PARTS"},
    {"claims", kMaxClaimsPerParty, "INVALID_FLIGHT"},
    {"fingerprint", kMaxFingerprintEntries, "INVALID_FINGERPRINT"},
    {"required_fingerprint", kMaxFingerprintEntries, "INVALID_FINGERPRINT"},
    {"other fields", kMaxOtherFields, "TOO_MANY_FIELDS"},
};

Counted KindOf(const FieldDescriptor& field) {
  for (size_t i = 0; i + 1 < kCountedKinds; ++i) {
    if (kLimits[i].field == field.name()) return static_cast<Counted>(i);
  }
  return Counted::kOther;
}

// What Protobuf expects of a field; in any other form it is unknown to it.
WireType TypeOnTheWire(const FieldDescriptor& field) {
  switch (field.type()) {
    case FieldDescriptor::TYPE_STRING:
    case FieldDescriptor::TYPE_BYTES:
    case FieldDescriptor::TYPE_MESSAGE:
      return WireType::kBytes;
    case FieldDescriptor::TYPE_GROUP:
      return WireType::kStartGroup;
    case FieldDescriptor::TYPE_FLOAT:
    case FieldDescriptor::TYPE_FIXED32:
    case FieldDescriptor::TYPE_SFIXED32:
      return WireType::kFixed32;
    case FieldDescriptor::TYPE_DOUBLE:
    case FieldDescriptor::TYPE_FIXED64:
    case FieldDescriptor::TYPE_SFIXED64:
      return WireType::kFixed64;
    default:
      return WireType::kVarint;
  }
}

}  // namespace

bool FieldCounter::Add(Counted what) {
  const auto i = static_cast<size_t>(what);
  if (++counts_[i] <= kLimits[i].most) return true;
  failure_ = WithReason(
      absl::InvalidArgumentError(absl::StrCat(AbslView(kLimits[i].field), ": more than ",
                                              kLimits[i].most, " of them, which is the limit")),
      kLimits[i].reason);
  return false;
}

bool FieldCounter::Add(Pieces message, const Descriptor& type) {
  WireReader reader(message);
  while (!reader.at_end()) {
    Tag tag;
    if (!reader.ReadTag(&tag) || !AddField(reader, tag, &type, /*depth=*/0)) return false;
  }
  return true;
}

bool FieldCounter::AddField(WireReader& reader, Tag tag, const Descriptor* type, int depth) {
  if (tag.type == WireType::kStartGroup) {
    return Add(Counted::kOther) && AddGroup(reader, tag, depth + 1);
  }
  const FieldDescriptor* field =
      type == nullptr ? nullptr : type->FindFieldByNumber(static_cast<int>(tag.field));
  if (field != nullptr && field->is_packable() && tag.type == WireType::kBytes) {
    return AddPacked(reader, KindOf(*field));
  }
  if (field == nullptr || TypeOnTheWire(*field) != tag.type) {
    return Add(Counted::kOther) && reader.Skip(tag);
  }
  if (field->is_repeated() && !Add(KindOf(*field))) return false;
  if (field->message_type() == nullptr) return reader.Skip(tag);
  return AddMessage(reader, *field->message_type(), depth + 1);
}

bool FieldCounter::AddMessage(WireReader& reader, const Descriptor& type, int depth) {
  size_t outer_limit;
  if (depth > kMostNested || !reader.EnterMessage(&outer_limit)) return false;
  while (!reader.at_end()) {
    Tag tag;
    if (!reader.ReadTag(&tag) || !AddField(reader, tag, &type, depth)) return false;
  }
  reader.LeaveMessage(outer_limit);
  return true;
}

// Protobuf keeps what is in a group that it does not know.
bool FieldCounter::AddGroup(WireReader& reader, Tag group, int depth) {
  if (depth > kMostNested) return false;
  Tag tag;
  while (reader.ReadTag(&tag)) {
    if (tag.type == WireType::kEndGroup) return tag.field == group.field;
    if (!AddField(reader, tag, /*type=*/nullptr, depth)) return false;
  }
  return false;
}

// REQUIRES: elements of the varint kind; requests have no others.
bool FieldCounter::AddPacked(WireReader& reader, Counted what) {
  size_t outer_limit;
  if (!reader.EnterMessage(&outer_limit)) return false;
  while (!reader.at_end()) {
    uint64_t ignored;
    if (!reader.ReadVarint(&ignored) || !Add(what)) return false;
  }
  reader.LeaveMessage(outer_limit);
  return true;
}

}  // namespace infercache::rpc
