#include "client/cli/keys.h"

#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/status_macros.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

// Bytes of the printable character that `text` starts with; 0 if it starts with none: not UTF-8
// (overlong forms, surrogates and values above U+10FFFF included) or a control character.
size_t PrintableCharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;

  size_t size = 0;
  uint32_t value = 0, smallest = 0;
  if ((lead & 0xe0) == 0xc0) {
    size = 2, value = lead & 0x1f, smallest = 0xa0;  // U+0080..U+009F are control characters
  } else if ((lead & 0xf0) == 0xe0) {
    size = 3, value = lead & 0x0f, smallest = 0x800;
  } else if ((lead & 0xf8) == 0xf0) {
    size = 4, value = lead & 0x07, smallest = 0x10000;
  } else {
    return 0;
  }
  if (text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    value = value << 6 | (byte(i) & 0x3f);
  }
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  return value < smallest || value > 0x10ffff || surrogate ? 0 : size;
}

std::optional<uint8_t> HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

}  // namespace

std::string EscapeKey(std::string_view key) {
  std::string text;
  text.reserve(key.size());
  while (!key.empty()) {
    size_t size = PrintableCharacterBytes(key);
    if (size == 0) {
      text += fmt::format("\\x{:02x}", static_cast<uint8_t>(key[0]));
      size = 1;
    } else if (key[0] == '\\') {
      text += "\\\\";
    } else {
      text += key.substr(0, size);
    }
    key.remove_prefix(size);
  }
  return text;
}

absl::StatusOr<std::string> UnescapeKey(std::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("a key is empty");
  std::string key;
  key.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      key += text[i];
      continue;
    }
    const std::string_view rest = text.substr(i + 1);
    if (rest.starts_with('\\')) {
      key += '\\';
      i += 1;
      continue;
    }
    const auto high = rest.size() >= 3 && rest[0] == 'x' ? HexDigit(rest[1]) : std::nullopt;
    const auto low = high ? HexDigit(rest[2]) : std::nullopt;
    if (!low) {
      return absl::InvalidArgumentError(
          fmt::format(R"(key "{}": the backslash at byte {} starts neither \\ nor \xNN)", text, i));
    }
    key += static_cast<char>(*high << 4 | *low);
    i += 3;
  }
  return key;
}

absl::StatusOr<std::vector<std::string>> UnescapeKeys(const std::vector<std::string>& texts) {
  std::vector<std::string> keys;
  for (const auto& text : texts) {
    ASSIGN_OR_RETURN(keys.emplace_back(), UnescapeKey(text));
  }
  return keys;
}

}  // namespace infercache::cli
