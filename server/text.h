// Small text helpers over std::string_view. Debian builds abseil with a string_view of its own,
// which std::string_view does not turn into by itself; absl::StrCat and its family take only that
// one.

#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/string_view.h"

namespace infercache::server {

inline void AppendPiece(std::string& out, std::string_view piece) { out.append(piece); }
inline void AppendPiece(std::string& out, const std::string& piece) { out.append(piece); }
inline void AppendPiece(std::string& out, const char* piece) { out.append(piece); }
inline void AppendPiece(std::string& out, absl::string_view piece) {
  out.append(piece.data(), piece.size());
}
template <typename T>
requires std::is_integral_v<T>
void AppendPiece(std::string& out, T number) { out.append(std::to_string(number)); }

// Appends texts and whole numbers.
template <typename... Pieces>
void Append(std::string& out, const Pieces&... pieces) {
  (AppendPiece(out, pieces), ...);
}

template <typename... Pieces>
std::string Cat(const Pieces&... pieces) {
  std::string out;
  Append(out, pieces...);
  return out;
}

// The pieces of `text` between separators; one, empty, for an empty text.
template <typename Callback>
void ForEachPiece(std::string_view text, char separator, Callback&& callback) {
  for (size_t start = 0;;) {
    const size_t end = text.find(separator, start);
    callback(text.substr(start, end == std::string_view::npos ? end : end - start));
    if (end == std::string_view::npos) return;
    start = end + 1;
  }
}

template <typename Range>
std::string Join(const Range& items, std::string_view separator) {
  std::string out;
  bool first = true;
  for (const auto& item : items) {
    if (!first) out.append(separator);
    AppendPiece(out, item);
    first = false;
  }
  return out;
}

// Without blanks at both ends.
std::string_view Trim(std::string_view text);
// ASCII letters only.
std::string Lower(std::string_view text);
std::string Upper(std::string_view text);
std::string ReplaceAll(std::string_view text, char from, std::string_view to);

// Control characters, quotes and backslashes as \xNN, \" and \\: fit for a message in quotes.
std::string Escaped(std::string_view text);

}  // namespace infercache::server
