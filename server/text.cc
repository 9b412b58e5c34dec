#include "server/text.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace infercache::server {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && absl::ascii_isspace(text.front())) text.remove_prefix(1);
  while (!text.empty() && absl::ascii_isspace(text.back())) text.remove_suffix(1);
  return text;
}

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), absl::ascii_tolower);
  return out;
}

std::string Upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), absl::ascii_toupper);
  return out;
}

std::string ReplaceAll(std::string_view text, char from, std::string_view to) {
  std::string out;
  for (char c : text) {
    if (c == from) {
      out.append(to);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string Escaped(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out.append({'\\', static_cast<char>(c)});
    } else if (c < 0x20 || c == 0x7f) {
      out.append({'\\', 'x', kHex[c >> 4], kHex[c & 15]});
    } else {
      out.push_back(static_cast<char>(c));
    }
  }
  return out;
}

}  // namespace infercache::server
