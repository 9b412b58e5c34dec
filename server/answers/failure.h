// A failure of one item of a batch, in the item's own code and message.

#pragma once

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace infercache {

// The message is cut so that the answer to a full batch of failures still fits a frame.
template <class Item>
void SetFailure(const absl::Status& status, Item* item) {
  constexpr size_t kMaxItemMessageBytes = 200;
  const absl::string_view message = status.message();
  item->set_code(static_cast<uint32_t>(status.code()));
  item->set_message(message.data(), std::min(message.size(), kMaxItemMessageBytes));
}

}  // namespace infercache
