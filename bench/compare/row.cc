#include "bench/compare/row.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace infercache::bench {
namespace {

constexpr char kLine[] = "%-28s %10s %10s %-6s %7s %13s %8s %-6s %s\n";

std::string Number(std::optional<double> value) {
  if (!value) return "-";
  return *value < 100 ? absl::StrFormat("%.2f", *value) : absl::StrFormat("%.1f", *value);
}

std::string Spread(const std::optional<std::pair<double, double>>& spread) {
  return spread ? absl::StrFormat("%.2f-%.2f", spread->first, spread->second) : "-";
}

const char* Verdict(std::optional<bool> ok) { return !ok ? "-" : *ok ? "yes" : "MISSED"; }

template <typename T>
nlohmann::json OrNull(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

std::string ToJson(const Row& row) {
  const nlohmann::ordered_json json = {
      {"case", row.name},
      {"ours", row.ours},
      {"peer", OrNull(row.peer)},
      {"unit", row.unit},
      {"ratio", OrNull(row.ratio)},
      {"spread", OrNull(row.spread)},
      {"target", row.target.empty() ? nlohmann::json() : nlohmann::json(row.target)},
      {"ok", OrNull(row.ok)},
      {"note", row.note}};
  return json.dump();
}

}  // namespace

std::string Target::ToString() const {
  return absl::StrCat(bound == Bound::kAtLeast ? ">= " : "<= ", value);
}

void RowPrinter::PrintHeader() const {
  if (output_ == Output::kJson) return;
  absl::PrintF(kLine, "case", "ours", "peer", "unit", "ratio", "spread", "target", "ok", "note");
}

void RowPrinter::Print(const Row& row) {
  missed_ |= row.ok == false;
  if (output_ == Output::kJson) {
    std::puts(ToJson(row).c_str());
  } else {
    absl::PrintF(kLine, row.name, Number(row.ours), Number(row.peer), row.unit, Number(row.ratio),
                 Spread(row.spread), row.target.empty() ? "-" : row.target, Verdict(row.ok),
                 row.note);
  }
  std::fflush(stdout);
}

}  // namespace infercache::bench
