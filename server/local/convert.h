// Between the messages of types.proto and the store's types. What the store checks itself is not
// checked here; only what does not fit its types is refused.

#pragma once

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "infercache/types.h"
#include "infercache/v1/local.pb.h"
#include "infercache/v1/types.pb.h"
#include "server/store/lease.h"

namespace infercache::local {

// Abseil as Debian builds it has a string_view of its own, which nothing converts to.
inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }

FingerprintEntries ToFingerprintEntries(
    const google::protobuf::RepeatedPtrField<v1::FingerprintEntry>& entries);

// INVALID_ARGUMENT names the field.
absl::StatusOr<ObjectInfo> ToObjectInfo(const v1::ObjectInfo& info);
absl::StatusOr<std::vector<PartSpec>> ToParts(
    const google::protobuf::RepeatedPtrField<v1::PartSpec>& parts);

void Describe(const ObjectInfo& info, uint64_t size_bytes, std::span<const PartSpec> parts,
              v1::ObjectDescription* out);

// For one item of a batch: the message is cut so that the answer to a full batch of failures still
// fits a frame.
template <class Item>
void SetFailure(const absl::Status& status, Item* item) {
  constexpr size_t kMaxItemMessageBytes = 200;
  const absl::string_view message = status.message();
  item->set_code(static_cast<uint32_t>(status.code()));
  item->set_message(message.data(), std::min(message.size(), kMaxItemMessageBytes));
}

}  // namespace infercache::local
