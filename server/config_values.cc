#include "server/config_values.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "common/status_macros.h"
#include "server/text.h"

namespace infercache::server {
namespace {

struct Unit {
  std::string_view suffix;
  uint64_t factor;
};

constexpr uint64_t kKi = 1024, kK = 1000;

absl::Status Expected(std::string_view hint, std::string_view text) {
  return absl::InvalidArgumentError(Cat("expected ", hint, ", got \"", Escaped(text), "\""));
}

std::string FormatWithUnits(uint64_t value, std::initializer_list<Unit> descending) {
  std::string best;
  for (const Unit& unit : descending) {
    if (value == 0 || value % unit.factor != 0) continue;
    std::string text = Cat(value / unit.factor, unit.suffix);
    if (best.empty() || text.size() < best.size()) best = std::move(text);
  }
  return best;
}

}  // namespace

std::string FormatSize(uint64_t bytes) {
  const std::string text = FormatWithUnits(bytes, {{"TiB", kKi * kKi * kKi * kKi},
                                                   {"GiB", kKi * kKi * kKi},
                                                   {"MiB", kKi * kKi},
                                                   {"KiB", kKi},
                                                   {"TB", kK * kK * kK * kK},
                                                   {"GB", kK * kK * kK},
                                                   {"MB", kK * kK},
                                                   {"KB", kK}});
  const std::string plain = Cat(bytes);
  return text.empty() || text.size() > plain.size() ? plain : text;
}

std::string FormatDurationMs(uint64_t ms) {
  if (ms == 0) return "0";
  return FormatWithUnits(
      ms, {{"d", 86'400'000}, {"h", 3'600'000}, {"m", 60'000}, {"s", 1000}, {"ms", 1}});
}

absl::StatusOr<uint64_t> ParseCount(std::string_view text) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) {
    return Expected("a whole number", text);
  }
  return value;
}

absl::StatusOr<bool> ParseBool(std::string_view text) {
  const std::string lower = Lower(text);
  if (lower == "true" || lower == "yes" || lower == "on" || lower == "1") return true;
  if (lower == "false" || lower == "no" || lower == "off" || lower == "0") return false;
  return Expected("true or false", text);
}

absl::StatusOr<uint32_t> ParseFileMode(std::string_view text) {
  uint32_t mode = 0;
  if (text.empty() || text.size() > 4) return Expected("an octal file mode such as 0660", text);
  for (char c : text) {
    if (c < '0' || c > '7') return Expected("an octal file mode such as 0660", text);
    mode = mode * 8 + static_cast<uint32_t>(c - '0');
  }
  if (mode > 0777) return Expected("an octal file mode of at most 0777", text);
  return mode;
}

bool HostPort::IsLoopback() const {
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost" || host.starts_with("127.");
}

std::string HostPort::ToString() const {
  return host.find(':') != std::string::npos ? Cat("[", host, "]:", port) : Cat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  constexpr std::string_view kHint = "an address such as 127.0.0.1:7400 or [::1]:7400";
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return Expected(kHint, text);
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);

  HostPort result;
  result.host = std::string(host);
  in_addr v4;
  in6_addr v6;
  const bool numeric = bracketed ? inet_pton(AF_INET6, result.host.c_str(), &v6) == 1
                                 : inet_pton(AF_INET, result.host.c_str(), &v4) == 1;
  if (!numeric && (bracketed || host != "localhost")) return Expected(kHint, text);
  const auto port = ParseCount(text.substr(colon + 1));
  if (!port.ok() || *port > 65'535) return Expected(kHint, text);
  result.port = static_cast<uint16_t>(*port);
  return result;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace infercache::server
