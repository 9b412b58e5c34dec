#include "server/answers/listing.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/part_table.h"
#include "common/status_macros.h"
#include "convert/types.h"

namespace infercache {
namespace {

constexpr uint32_t kDefaultPageSize = 1000;
constexpr size_t kFieldHeadBytes = 8;  // of one object in the answer

absl::Status Check(const ListRequest& request) {
  const auto invalid = [](const auto&... message) {
    return absl::InvalidArgumentError(absl::StrCat(message...));
  };
  if (request.page_size > kMaxListPageSize) {
    return invalid("page_size: ", request.page_size, "; the limit is ", kMaxListPageSize);
  }
  if (request.key_prefix.size() > kMaxKeyBytes) {
    return invalid("key_prefix: ", request.key_prefix.size(), " bytes; the limit is ",
                   kMaxKeyBytes);
  }
  const std::string& token = request.page_token;
  if (!token.empty() &&
      (token.size() > kMaxKeyBytes || !absl::StartsWith(token, request.key_prefix))) {
    return invalid("page_token: not from an answer to this key_prefix");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeyListing> ListKeys(store::Namespace& ns, const Hash128& fingerprint,
                                    const ListRequest& request) {
  RETURN_IF_ERROR(Check(request));
  // Nothing is told in fewer bytes than the index has of it.
  const store::ListPage page =
      ns.List(fingerprint, request.key_prefix, request.page_token,
              request.page_size == 0 ? kDefaultPageSize : request.page_size, request.max_bytes);
  KeyListing listing;
  bool more = page.more;
  size_t bytes = 0;
  for (const store::ListEntry& entry : page.entries) {
    v1::ListedObject listed;
    listed.set_key(entry.key);
    // One at a time: what a few bytes of the index describe can be large.
    ASSIGN_OR_RETURN(const std::vector<PartSpec> parts, DecodePartTable(entry.part_table));
    Describe(entry.info, entry.size_bytes, parts, listed.mutable_object());
    bytes += listed.ByteSizeLong() + kFieldHeadBytes;
    if (bytes > request.max_bytes && !listing.objects.empty()) {
      more = true;
      break;
    }
    *listing.objects.Add() = std::move(listed);
  }
  if (more && !listing.objects.empty()) {
    listing.next_page_token = listing.objects.rbegin()->key();
  }
  return listing;
}

}  // namespace infercache
