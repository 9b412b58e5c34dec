#include "client/cli/units.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr uint64_t kMaxSize = uint64_t{1} << 63;

// Up to three significant digits, without a fraction from 100 on.
std::string ThreeDigits(double value) {
  if (value >= 99.95 || value == std::floor(value)) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}", value, value >= 9.995 ? 1 : 2);
}

template <size_t N>
std::string Scaled(double value, double base, const char* const (&units)[N]) {
  size_t unit = 0;
  // 999.5 of one unit would print as 1000.
  while (unit + 1 < N && value >= base - 0.5) {
    value /= base;
    ++unit;
  }
  return ThreeDigits(value) + units[unit];
}

// The factor of a lower-case suffix, 0 if there is none such.
double SizeFactor(std::string_view suffix) {
  if (suffix.empty() || suffix == "b") return 1;
  constexpr std::string_view kPrefixes = "kmgtp";
  const size_t prefix = kPrefixes.find(suffix.front());
  if (prefix == std::string_view::npos) return 0;
  suffix.remove_prefix(1);
  const double exponent = static_cast<double>(prefix) + 1;
  if (suffix.empty() || suffix == "ib") return std::pow(1024.0, exponent);
  return suffix == "b" ? std::pow(1000.0, exponent) : 0;
}

absl::Status BadQuantity(std::string_view what, std::string_view text, std::string_view expected) {
  return absl::InvalidArgumentError(
      fmt::format("\"{}\" is not {}; write {}", text, what, expected));
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string number_text(text.substr(0, digits));
  std::string suffix(text.substr(digits));
  absl::AsciiStrToLower(&suffix);
  const double factor = SizeFactor(suffix);
  // Whole bytes exactly; a double holds not every one of them.
  uint64_t bytes = 0;
  if (factor == 1 && absl::SimpleAtoi(number_text, &bytes) && bytes < kMaxSize) return bytes;
  double number = 0;
  const bool parsed = digits > 0 && absl::SimpleAtod(number_text, &number);
  const double value = number * factor;
  if (!parsed || factor == 0 || value >= static_cast<double>(kMaxSize) ||
      value != std::floor(value)) {
    return BadQuantity("a size", text, "bytes or a suffix, as in 4096, 64KiB, 1.5GiB");
  }
  return static_cast<uint64_t>(value);
}

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(std::string(text), &duration) || duration <= absl::ZeroDuration()) {
    return BadQuantity("a positive duration", text, "a number with ms, s, m or h, as in 250ms");
  }
  return duration;
}

uint64_t BlockBudget::Resolve(uint64_t unique_blocks) const {
  if (percent == 0) return blocks;
  const double share = std::round(percent / 100 * static_cast<double>(unique_blocks));
  return std::max<uint64_t>(1, static_cast<uint64_t>(share));
}

absl::StatusOr<BlockBudget> ParseBlockBudget(std::string_view text) {
  BlockBudget budget;
  const bool percent = text.ends_with('%');
  const std::string number(text.substr(0, text.size() - (percent ? 1 : 0)));
  if (percent) {
    if (absl::SimpleAtod(number, &budget.percent) && budget.percent > 0 && budget.percent <= 100) {
      return budget;
    }
  } else if (absl::SimpleAtoi(number, &budget.blocks) && budget.blocks > 0) {
    return budget;
  }
  return BadQuantity("a number of blocks", text, "a count or a share up to 100%, as in 20000, 10%");
}

std::string FormatSize(double bytes) {
  return Scaled(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB", " PiB"});
}

std::string FormatElapsed(absl::Duration duration) {
  const double us = absl::ToDoubleMicroseconds(duration);
  if (us < 60e6) return Scaled(us, 1000, {" us", " ms", " s"});
  const int64_t seconds = absl::ToInt64Seconds(duration);
  if (seconds < 3600) return fmt::format("{} m {:02} s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{} h {:02} m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{} d {:02} h", seconds / 86400, seconds / 3600 % 24);
}

std::string FormatCount(double count) {
  if (count < 1000 && count == std::floor(count)) return fmt::format("{:.0f}", count);
  return Scaled(count, 1000, {"", " k", " M", " G", " T"});
}

std::string FormatRatio(double ratio) { return fmt::format("{:.2f} %", 100 * ratio); }

}  // namespace infercache::cli
