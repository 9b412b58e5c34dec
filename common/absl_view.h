// Abseil as Debian builds it has a string_view of its own, which nothing converts to.

#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace infercache {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace infercache
