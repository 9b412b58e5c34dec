#include "common/quantities.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/absl_view.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

struct Unit {
  std::string_view suffix;  // lower case
  uint64_t factor;
};

constexpr uint64_t kKi = 1024, kK = 1000;
constexpr std::array kSizeUnits = {
    Unit{"", 1},
    Unit{"b", 1},
    Unit{"ki", kKi},
    Unit{"kib", kKi},
    Unit{"mi", kKi* kKi},
    Unit{"mib", kKi* kKi},
    Unit{"gi", kKi* kKi* kKi},
    Unit{"gib", kKi* kKi* kKi},
    Unit{"ti", kKi* kKi* kKi* kKi},
    Unit{"tib", kKi* kKi* kKi* kKi},
    Unit{"pi", kKi* kKi* kKi* kKi* kKi},
    Unit{"pib", kKi* kKi* kKi* kKi* kKi},
    Unit{"k", kK},
    Unit{"kb", kK},
    Unit{"m", kK* kK},
    Unit{"mb", kK* kK},
    Unit{"g", kK* kK* kK},
    Unit{"gb", kK* kK* kK},
    Unit{"t", kK* kK* kK* kK},
    Unit{"tb", kK* kK* kK* kK},
    Unit{"p", kK* kK* kK* kK* kK},
    Unit{"pb", kK* kK* kK* kK* kK},
};
constexpr std::array kDurationUnits = {
    Unit{"ms", 1}, Unit{"s", 1000}, Unit{"m", 60'000}, Unit{"h", 3'600'000}, Unit{"d", 86'400'000},
};

constexpr std::string_view kSizeHint = "a size such as 512MiB or 10GB";
constexpr std::string_view kDurationHint = "a duration such as 100ms, 30s or 5m";
constexpr uint64_t kLargest = std::numeric_limits<int64_t>::max();

std::string Quoted(std::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(AbslView(text)), "\"");
}

absl::Status Expected(std::string_view hint, std::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("expected ", AbslView(hint), ", got ", Quoted(text)));
}

absl::Status TooLarge(std::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is too large"));
}

std::string_view SkipSpace(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  return text;
}

// number[.fraction], as value = digits / scale.
struct Decimal {
  unsigned __int128 digits = 0;
  uint64_t scale = 1;
};

// Takes one off the front of `text`; false if there is none, or one of absurd length.
bool TakeDecimal(std::string_view& text, Decimal& out) {
  size_t i = 0;
  bool fraction = false;
  size_t digits = 0;
  for (; i < text.size(); ++i) {
    if (text[i] == '.' && !fraction) {
      fraction = true;
      continue;
    }
    if (!absl::ascii_isdigit(static_cast<unsigned char>(text[i]))) break;
    if (++digits > 20) return false;
    out.digits = out.digits * 10 + static_cast<unsigned>(text[i] - '0');
    if (fraction) {
      if (out.scale >= 1'000'000'000) return false;
      out.scale *= 10;
    }
  }
  if (digits == 0 || text[i - 1] == '.') return false;
  text.remove_prefix(i);
  return true;
}

// Takes a number and its unit off the front of `rest`. `text` is the whole, for messages.
absl::StatusOr<uint64_t> TakeQuantity(std::string_view& rest, std::span<const Unit> units,
                                      std::string_view hint, std::string_view text) {
  Decimal number;
  if (!TakeDecimal(rest, number)) return Expected(hint, text);
  rest = SkipSpace(rest);
  const size_t letters = std::find_if_not(rest.begin(), rest.end(),
                                          [](unsigned char c) { return absl::ascii_isalpha(c); }) -
                         rest.begin();
  const std::string suffix = absl::AsciiStrToLower(AbslView(rest.substr(0, letters)));
  rest = SkipSpace(rest.substr(letters));
  const auto unit = std::find_if(units.begin(), units.end(),
                                 [&suffix](const Unit& u) { return u.suffix == suffix; });
  if (unit == units.end()) return Expected(hint, text);
  const unsigned __int128 scaled = number.digits * unit->factor;
  if (scaled % number.scale != 0) return Expected(hint, text);
  if (scaled / number.scale > kLargest) return TooLarge(text);
  return static_cast<uint64_t>(scaled / number.scale);
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  std::string_view rest = SkipSpace(text);
  ASSIGN_OR_RETURN(const uint64_t bytes, TakeQuantity(rest, kSizeUnits, kSizeHint, text));
  if (!rest.empty()) return Expected(kSizeHint, text);
  return bytes;
}

absl::StatusOr<uint64_t> ParseDurationMs(std::string_view text) {
  std::string_view rest = SkipSpace(text);
  if (rest.substr(0, 1) == "0" && SkipSpace(rest.substr(1)).empty()) return 0;
  uint64_t sum = 0;
  do {
    ASSIGN_OR_RETURN(const uint64_t ms, TakeQuantity(rest, kDurationUnits, kDurationHint, text));
    if (ms > kLargest - sum) return TooLarge(text);
    sum += ms;
  } while (!rest.empty());
  return sum;
}

}  // namespace infercache
