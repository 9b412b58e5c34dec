#include "client/cli/units.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/numbers.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

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

absl::Status BadQuantity(std::string_view what, std::string_view text, std::string_view expected) {
  return absl::InvalidArgumentError(
      fmt::format("\"{}\" is not {}; write {}", text, what, expected));
}

}  // namespace

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  ASSIGN_OR_RETURN(const uint64_t ms, ParseDurationMs(text));
  if (ms == 0) return BadQuantity("a positive duration", text, "one such as 250ms");
  return absl::Milliseconds(static_cast<int64_t>(ms));
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
