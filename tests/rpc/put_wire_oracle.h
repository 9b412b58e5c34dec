// Protobuf's own parser as the oracle of ours: both accept the same bytes, with the same meaning.

#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/put_wire.h"

namespace infercache::rpc {

// `bytes` cut into pieces of `sizes` bytes, over and over; 0 gives an empty piece.
inline std::vector<std::string_view> Cut(std::string_view bytes, const std::vector<size_t>& sizes) {
  std::vector<std::string_view> pieces;
  for (size_t i = 0; !bytes.empty(); ++i) {
    // Each round of sizes ends with a byte of progress.
    const size_t size = i % (sizes.size() + 1) < sizes.size() ? sizes[i % (sizes.size() + 1)] : 1;
    pieces.push_back(bytes.substr(0, size));
    bytes.remove_prefix(std::min(size, bytes.size()));
  }
  return pieces;
}

inline std::string Collect(Pieces pieces, const ByteRun& run) {
  std::string bytes(run.size, '\0');
  CopyRun(pieces, run, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

template <typename Message>
std::string Canonical(Message message) {
  message.DiscardUnknownFields();
  return message.SerializeAsString();
}

// Whether the walker refused a message for what there is too much of in it, which Protobuf has no
// word on.
inline bool HasTooMany(const absl::Status& status) {
  return absl::StrContains(status.message(), "which is the limit");
}

// Empty if both agree, else what differs.
inline std::string ComparePut(std::string_view bytes, const std::vector<size_t>& sizes) {
  const std::vector<std::string_view> pieces = Cut(bytes, sizes);
  const auto view = ParsePutRequest(pieces);
  if (HasTooMany(view.status())) return "";
  v1::PutRequest expected;
  const bool accepted = expected.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (view.ok() != accepted) return accepted ? "only Protobuf accepts" : "only the walker accepts";
  if (!accepted) return "";

  v1::PutRequest actual;
  if (expected.has_scope() || view->scope.ByteSizeLong() > 0) *actual.mutable_scope() = view->scope;
  for (const PutItemView& item : view->items) {
    *actual.add_items() = item.item;
    actual.mutable_items()->rbegin()->set_value(Collect(pieces, item.value));
  }
  return Canonical(actual) == Canonical(expected) ? "" : "the contents differ";
}

inline std::string ComparePutStream(std::string_view bytes, const std::vector<size_t>& sizes) {
  const std::vector<std::string_view> pieces = Cut(bytes, sizes);
  const auto view = ParsePutStreamRequest(pieces);
  if (HasTooMany(view.status())) return "";
  v1::PutStreamRequest expected;
  const bool accepted = expected.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (view.ok() != accepted) return accepted ? "only Protobuf accepts" : "only the walker accepts";
  if (!accepted) return "";

  v1::PutStreamRequest actual;
  if (view->header) *actual.mutable_header() = *view->header;
  if (view->chunk) actual.set_chunk(Collect(pieces, *view->chunk));
  return Canonical(actual) == Canonical(expected) ? "" : "the contents differ";
}

}  // namespace infercache::rpc
