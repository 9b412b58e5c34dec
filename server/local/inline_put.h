// Finds the values of a PutInline in its frame, so that they are copied once, into the arena, and
// not into a message first.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace infercache::local {

struct InlinePutView {
  std::string_view object;  // an encoded ReserveItem
  std::string_view value;
};

struct InlinePutsView {
  uint64_t id = 0;  // of the request
  std::vector<InlinePutView> items;
};

// Takes an encoded LocalRequest with a PutInline apart. False: it is another request, or is encoded
// in a way that no ordinary encoder produces; Protobuf's parser has to say what it means.
// `views` point into `frame`; its memory is reused from call to call.
bool FindInlinePuts(std::string_view frame, InlinePutsView* views);

}  // namespace infercache::local
