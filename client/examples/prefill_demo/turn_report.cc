#include "client/examples/prefill_demo/turn_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"

namespace infercache::demo {

std::string ToJson(const TurnReport& report) {
  return nlohmann::json{{"turn", report.turn},
                        {"prompt_tokens", report.prompt_tokens},
                        {"reused_tokens", report.reused_tokens},
                        {"fetch_seconds", report.fetch_seconds},
                        {"compute_seconds", report.compute_seconds},
                        {"store_seconds", report.store_seconds},
                        {"stored_blocks", report.stored_blocks},
                        {"existing_blocks", report.existing_blocks},
                        {"cache_error", report.cache_error},
                        {"answer", report.answer},
                        {"logit_bits", report.logit_bits}}
      .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<TurnReport> TurnReportFromJson(std::string_view line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  TurnReport report;
  bool complete = json.is_object();
  const auto read = [&json, &complete](const char* name, auto& field, auto is_right_type) {
    const auto it = complete ? json.find(name) : json.end();
    complete = complete && it != json.end() && is_right_type(*it);
    if (complete) it->get_to(field);
  };
  const auto is_count = [](const nlohmann::json& j) { return j.is_number_unsigned(); };
  const auto is_number = [](const nlohmann::json& j) { return j.is_number(); };
  const auto is_string = [](const nlohmann::json& j) { return j.is_string(); };
  const auto is_count_list = [is_count](const nlohmann::json& j) {
    return j.is_array() && std::all_of(j.begin(), j.end(), is_count);
  };
  read("turn", report.turn, is_count);
  read("prompt_tokens", report.prompt_tokens, is_count);
  read("reused_tokens", report.reused_tokens, is_count);
  read("fetch_seconds", report.fetch_seconds, is_number);
  read("compute_seconds", report.compute_seconds, is_number);
  read("store_seconds", report.store_seconds, is_number);
  read("stored_blocks", report.stored_blocks, is_count);
  read("existing_blocks", report.existing_blocks, is_count);
  read("cache_error", report.cache_error, is_string);
  read("answer", report.answer, is_string);
  read("logit_bits", report.logit_bits, is_count_list);
  if (!complete) return absl::InvalidArgumentError(fmt::format("not a turn report: {}", line));
  return report;
}

}  // namespace infercache::demo
