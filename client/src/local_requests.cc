#include "client/src/local_requests.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/listing.h"
#include "common/limits.h"

namespace infercache {
namespace {

constexpr size_t kMaxKeyBytesPerRequest = kMaxFrameBytes / 2;

}  // namespace

void RemoveConversation::Fail(const absl::Status& status) {
  result = {.status = status};
  begin_ = end_ = keys_.size();
}

bool RemoveConversation::Next(v1::LocalRequest* request) {
  begin_ = end_;
  size_t bytes = 0;
  for (; end_ < keys_.size() && end_ - begin_ < kMaxItemsPerFrame; ++end_) {
    bytes += keys_[end_].size();
    if (bytes > kMaxKeyBytesPerRequest) break;
    request->mutable_remove()->add_keys(keys_[end_].data(), keys_[end_].size());
  }
  return end_ > begin_;
}

void RemoveConversation::Take(LocalAnswer answer) {
  if (!answer.status.ok()) return Fail(answer.status);
  const std::string& bits = answer.response.removed().removed();
  const size_t count = end_ - begin_;
  if (bits.size() != (count + 7) / 8) {
    return Fail(BadAnswer(absl::StrCat("bitmap of ", bits.size(), " bytes for ", count, " keys")));
  }
  for (size_t i = 0; i < count; ++i) {
    result.flags[begin_ + i] = (static_cast<unsigned char>(bits[i / 8]) >> (i % 8) & 1) != 0;
  }
}

bool ListConversation::Next(v1::LocalRequest* request) {
  if (std::exchange(asked_, true)) return false;
  // To the daemon a token is a key to go on after, which a list of this prefix has handed out.
  if (!page_token_.empty() &&
      (page_token_.size() > kMaxKeyBytes || !page_token_.starts_with(key_prefix_))) {
    result.status = absl::InvalidArgumentError("page_token: not from an answer to this key_prefix");
    return false;
  }
  v1::ListKeys& list = *request->mutable_list_keys();
  list.set_key_prefix(key_prefix_);
  list.set_page_size(page_size_);
  list.set_page_token(page_token_);
  return true;
}

void ListConversation::Take(LocalAnswer answer) {
  if (!answer.status.ok()) return Fail(answer.status);
  v1::KeyPage& page = *answer.response.mutable_key_page();
  result =
      TakeListing(std::move(*page.mutable_objects()), std::move(*page.mutable_next_page_token()));
}

bool PingConversation::Next(v1::LocalRequest* request) {
  if (std::exchange(asked_, true)) return false;
  request->mutable_ping();
  return true;
}

}  // namespace infercache
