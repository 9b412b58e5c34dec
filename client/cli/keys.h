// Keys as text. Keys are bytes; on the command line and in every output (tables and JSON) they are
// written as escaped UTF-8, the same way in both directions, so that what `list` prints can be
// given to `get`:
//
//   printable UTF-8 stands for itself; a backslash is \\; any other byte is \xNN (two hex digits)

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace infercache::cli {

// Valid printable UTF-8, whatever the bytes are.
std::string EscapeKey(std::string_view key);

// INVALID_ARGUMENT, with the position, on a backslash that starts no escape, and on an empty key.
absl::StatusOr<std::string> UnescapeKey(std::string_view text);
absl::StatusOr<std::vector<std::string>> UnescapeKeys(const std::vector<std::string>& texts);

// As the client takes them; they refer to `keys`.
inline std::vector<std::string_view> Views(const std::vector<std::string>& keys) {
  return {keys.begin(), keys.end()};
}

}  // namespace infercache::cli
