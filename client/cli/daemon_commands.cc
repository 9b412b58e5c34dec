// ping info stat flush drain log-level: the daemon as a whole.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/context.h"
#include "client/cli/keys.h"
#include "client/cli/latency.h"
#include "client/cli/units.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

absl::StatusOr<ExitCode> Ping(const Context& context) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  // The first call connects; the second is the round trip.
  RETURN_IF_ERROR(admin->CheckHealth());
  const uint64_t start_ns = NowNs();
  RETURN_IF_ERROR(admin->CheckHealth());
  const double us = static_cast<double>(NowNs() - start_ns) / 1000;
  Print(context.json()
            ? JsonLine({{"endpoint", admin->endpoint()}, {"serving", true}, {"round_trip_us", us}})
            : absl::StrCat(admin->endpoint(), " is serving, round trip ",
                           FormatElapsed(absl::Microseconds(us)), "\n"));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Info(const Context& context) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  ASSIGN_OR_RETURN(const v1::GetInfoResponse info, admin->GetInfo());
  Print(context.json() ? JsonLine(MessageJson(info)) : FieldsText(MessageFields(info)));
  return ExitCode::kOk;
}

struct StatOptions {
  absl::Duration interval = absl::ZeroDuration();  // zero = once
  uint64_t count = 0;                              // reports of an interval; 0 = no end
};

Json StatJson(const v1::GetStatsResponse& stats) {
  Json json = {{"unix_ms", absl::ToUnixMillis(absl::Now())}};
  json.update(MessageJson(stats));
  return json;
}

double Share(uint64_t part, uint64_t rest) {
  return part + rest == 0 ? 0 : static_cast<double>(part) / static_cast<double>(part + rest);
}

// A row for each namespace, and one for each tier in a GPU, as NAMESPACE@GPU.
std::vector<v1::NamespaceStats> StatRows(const v1::GetStatsResponse& stats) {
  std::vector<v1::NamespaceStats> rows;
  for (const auto& ns : stats.namespaces()) {
    rows.push_back(ns);
    for (const auto& tier : ns.device_tiers()) {
      if (tier.has_objects()) rows.push_back(tier.objects());
    }
  }
  return rows;
}

std::string StatTable(const v1::GetStatsResponse& stats) {
  Table table({{"NAMESPACE", Table::Align::kLeft},
               {"USED"},
               {"QUOTA"},
               {"OBJECTS"},
               {"HITS"},
               {"LOCAL HITS"},
               {"MISSES"},
               {"HIT RATIO"},
               {"USED AGAIN"},
               {"AT 2X"},
               {"STORED"},
               {"EVICTED"},
               {"REFUSED"},
               {"PINS"},
               {"SESSIONS"},
               {"QUARANTINED"}});
  for (const auto& ns : StatRows(stats)) {
    table.AddRow({ns.name(), FormatSize(ns.used_bytes()), FormatSize(ns.quota_bytes()),
                  absl::StrCat(ns.objects()), absl::StrCat(ns.hits()),
                  absl::StrCat(ns.local_hits()), absl::StrCat(ns.misses()),
                  FormatRatio(Share(ns.hits(), ns.misses())), FormatRatio(ns.uses().hit_ratio()),
                  FormatRatio(ns.uses().hit_ratio_at_2x_capacity()), absl::StrCat(ns.stored()),
                  absl::StrCat(ns.evicted()), absl::StrCat(ns.refused()),
                  absl::StrCat(ns.pins() + ns.local_pins()), absl::StrCat(ns.local_sessions()),
                  FormatSize(ns.quarantined_bytes())});
  }
  return table.Text();
}

Fields TiersThatAreOff(const v1::NamespaceStats& ns) {
  Fields fields;
  for (const auto& tier : ns.device_tiers()) {
    if (tier.has_objects()) continue;
    fields.emplace_back(absl::StrCat(ns.name(), "@", tier.tier().device()),
                        absl::StrCat("off: ", tier.tier().why_off()));
  }
  return fields;
}

// All there is about one namespace, and then about each of its tiers.
std::string StatFields(const v1::NamespaceStats& ns) {
  std::string text = FieldsText(MessageFields(ns));
  for (const auto& tier : ns.device_tiers()) {
    if (tier.has_objects()) absl::StrAppend(&text, "\n", FieldsText(MessageFields(tier.objects())));
  }
  const Fields off = TiersThatAreOff(ns);
  if (!off.empty()) absl::StrAppend(&text, "\n", FieldsText(off));
  return text;
}

// What is not about the objects of one namespace.
std::string StatTotals(const v1::GetStatsResponse& stats) {
  Fields fields = MessageFields(stats);
  for (const auto& ns : stats.namespaces()) {
    for (auto& off : TiersThatAreOff(ns)) fields.push_back(std::move(off));
  }
  if (stats.has_local()) {
    const auto by_reason = [](const auto& counts) {
      return absl::StrJoin(counts, ", ", [](std::string* out, const auto& one) {
        absl::StrAppend(out, one.reason(), " ", one.count());
      });
    };
    fields.emplace_back("local.sessions_ended", by_reason(stats.local().sessions_ended()));
    fields.emplace_back("local.lending.refused", by_reason(stats.local().lending().refused()));
  }
  return FieldsText(fields);
}

using StatsByName = absl::flat_hash_map<std::string, v1::NamespaceStats>;

// What happened since `before`, per second. A namespace that was not there then starts at 0; one
// that was made anew meanwhile has smaller totals, and counts from 0 too.
std::string RateTable(const v1::GetStatsResponse& stats, const StatsByName& before, double seconds,
                      bool with_titles) {
  Table table({{"NAMESPACE", Table::Align::kLeft, 16},
               {"USED", Table::Align::kRight, 8},
               {"OBJECTS", Table::Align::kRight, 8},
               {"HITS/S", Table::Align::kRight, 8},
               {"LOCAL/S", Table::Align::kRight, 8},
               {"MISSES/S", Table::Align::kRight, 8},
               {"HIT RATIO", Table::Align::kRight, 9},
               {"HIT BYTES/S", Table::Align::kRight, 11},
               {"STORED/S", Table::Align::kRight, 8},
               {"EVICTED/S", Table::Align::kRight, 9},
               {"REFUSED/S", Table::Align::kRight, 9}});
  for (const auto& ns : StatRows(stats)) {
    const auto found = before.find(ns.name());
    const v1::NamespaceStats none;
    const v1::NamespaceStats& then = found == before.end() ? none : found->second;
    const auto delta = [&](auto field) {
      const uint64_t now = (ns.*field)(), old = (then.*field)();
      return now >= old ? now - old : now;
    };
    const auto rate = [&](auto field) { return static_cast<double>(delta(field)) / seconds; };
    using S = v1::NamespaceStats;
    table.AddRow({ns.name(), FormatSize(ns.used_bytes()), absl::StrCat(ns.objects()),
                  FormatCount(rate(&S::hits)), FormatCount(rate(&S::local_hits)),
                  FormatCount(rate(&S::misses)),
                  FormatRatio(Share(delta(&S::hits), delta(&S::misses))),
                  FormatSize(rate(&S::hit_bytes)), FormatCount(rate(&S::stored)),
                  FormatCount(rate(&S::evicted)), FormatCount(rate(&S::refused))});
  }
  return table.Text(with_titles);
}

absl::StatusOr<ExitCode> StatRepeatedly(const Context& context, AdminClient& admin,
                                        const StatOptions& options) {
  constexpr uint64_t kRowsPerTitle = 20;
  StatsByName before;
  uint64_t before_ns = 0;
  for (uint64_t report = 0; options.count == 0 || report < options.count;) {
    ASSIGN_OR_RETURN(const v1::GetStatsResponse stats, admin.GetStats(context.given_namespace()));
    const uint64_t now_ns = NowNs();
    if (context.json()) {
      Print(JsonLine(StatJson(stats)));
      ++report;
    } else if (before_ns != 0) {
      const double seconds = static_cast<double>(now_ns - before_ns) / 1e9;
      Print(RateTable(stats, before, seconds, report % kRowsPerTitle == 0));
      ++report;
    }
    if (!FlushOutput()) return absl::DataLossError("standard output could not be written");
    before.clear();
    for (const auto& ns : StatRows(stats)) before[ns.name()] = ns;
    before_ns = now_ns;
    if (options.count == 0 || report < options.count) absl::SleepFor(options.interval);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Stat(const Context& context, const StatOptions& options) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  if (options.interval > absl::ZeroDuration()) return StatRepeatedly(context, *admin, options);
  ASSIGN_OR_RETURN(const v1::GetStatsResponse stats, admin->GetStats(context.given_namespace()));
  if (context.json()) {
    Print(JsonLine(StatJson(stats)));
  } else if (!context.given_namespace().empty() && stats.namespaces_size() == 1) {
    Print(StatFields(stats.namespaces(0)));
  } else {
    Print(absl::StrCat(StatTable(stats), "\n", StatTotals(stats)));
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Flush(const Context& context, const std::string& escaped_prefix) {
  std::string prefix;
  if (!escaped_prefix.empty()) {
    ASSIGN_OR_RETURN(prefix, UnescapeKey(escaped_prefix));
  }
  ASSIGN_OR_RETURN(const ClientOptions options, context.MakeClientOptions());
  ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(options));
  ASSIGN_OR_RETURN(const uint64_t erased, admin->Flush(options.namespace_name, prefix));
  Print(context.json()
            ? JsonLine({{"namespace", options.namespace_name}, {"erased", erased}})
            : absl::StrCat(erased, " objects erased from ", options.namespace_name, "\n"));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Drain(const Context& context) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  RETURN_IF_ERROR(admin->Drain());
  Print(context.json() ? JsonLine({{"endpoint", admin->endpoint()}, {"draining", true}})
                       : absl::StrCat(admin->endpoint(), " is draining and will exit\n"));
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> LogLevel(const Context& context, const std::string& level) {
  ASSIGN_OR_RETURN(const auto admin, context.ConnectAdmin());
  ASSIGN_OR_RETURN(const std::string previous, admin->SetLogLevel(level));
  Print(context.json() ? JsonLine({{"level", level}, {"previous_level", previous}})
                       : absl::StrCat("log level ", level, ", before ", previous, "\n"));
  return ExitCode::kOk;
}

void AddStat(CommandLine& line) {
  auto* stat = line.app.add_subcommand(
      "stat", "Counters and sizes of all namespaces, or all there is about that of --namespace");
  const auto options = std::make_shared<StatOptions>();
  auto* interval =
      stat->add_option(
              "-i,--interval",
              [options](const CLI::results_t& texts) {
                double seconds = 0;
                if (!CLI::detail::lexical_cast(texts[0], seconds) || !(seconds > 0)) return false;
                options->interval = absl::Seconds(seconds);
                return true;
              },
              "Report again and again, as rates per second (JSON: totals, an object a line)")
          ->type_name("SECONDS");
  stat->add_option("-n,--count", options->count, "With -i: how many reports [no end]")
      ->type_name("N")
      ->needs(interval);
  stat->callback([&line, options] {
    line.selected = [options](const Context& context) { return Stat(context, *options); };
  });
}

}  // namespace

void AddDaemonCommands(CommandLine& line) {
  line.app
      .add_subcommand(
          "ping", "Does the daemon answer and serve? 3 if nobody answers, 4 if it does not serve")
      ->callback([&line] { line.selected = Ping; });
  line.app.add_subcommand("info", "Version, addresses, capacity, limits and uptime")
      ->callback([&line] { line.selected = Info; });
  AddStat(line);

  auto* flush = line.app.add_subcommand(
      "flush", "Erase every object of the namespace, or those whose key starts with PREFIX");
  const auto prefix = std::make_shared<std::string>();
  flush->add_option("PREFIX", *prefix, "Of the keys, escaped");
  flush->callback([&line, prefix] {
    line.selected = [prefix](const Context& context) { return Flush(context, *prefix); };
  });

  line.app
      .add_subcommand("drain",
                      "Shut the daemon down: no new puts, calls in flight finish, it exits")
      ->callback([&line] { line.selected = Drain; });

  auto* log_level = line.app.add_subcommand("log-level", "Change what the daemon logs");
  const auto level = std::make_shared<std::string>();
  log_level->add_option("LEVEL", *level, "Least severe level that is logged")
      ->type_name("trace|debug|info|warn|error")
      ->required();
  log_level->callback([&line, level] {
    line.selected = [level](const Context& context) { return LogLevel(context, *level); };
  });
}

}  // namespace infercache::cli
