// replay: the command around replay.h; the namespace that it works in, and the report.

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/context.h"
#include "client/cli/parallel.h"
#include "client/cli/progress.h"
#include "client/cli/replay.h"
#include "client/cli/trace.h"
#include "client/cli/units.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

// One call may carry 16 MiB in and needs room for it on a busy machine.
constexpr absl::Duration kCallDeadline = absl::Seconds(30);

struct ReplayArguments {
  std::string trace_file;
  BlockBudget budget;
  std::string policy;  // empty = the daemon's default
  ReplayOptions options;
  bool virtual_clock = false;
  bool keep = false;
};

std::string ReportText(ReplayResult& result, const Json& report) {
  const auto ratio = [](double value) { return FormatRatio(value); };
  std::string text =
      FieldsText({{"namespace", report["namespace"]},
                  {"lane", report["lane"]},
                  {"capacity", absl::StrCat(report["capacity_blocks"].get<uint64_t>(), " blocks")},
                  {"requests", absl::StrCat(result.requests)},
                  {"blocks", absl::StrCat(result.blocks)},
                  {"prefix hit ratio", ratio(result.PrefixHitRatio())},
                  {"object hit ratio", ratio(result.ObjectHitRatio())},
                  {"read", FormatSize(static_cast<double>(result.bytes_get))},
                  {"stored", FormatSize(static_cast<double>(result.bytes_put))},
                  {"blocks refused", absl::StrCat(result.refused_blocks)},
                  {"blocks lost", absl::StrCat(result.lost_blocks)},
                  {"wrong bytes", absl::StrCat(result.wrong_bytes)},
                  {"time", FormatElapsed(absl::Seconds(result.seconds))}});
  Table table({{"CALL", Table::Align::kLeft}, {"CALLS"}, {"P50"}, {"P99"}});
  const std::pair<const char*, LatencySamples*> calls[] = {
      {"match", &result.match}, {"get", &result.get}, {"put", &result.put}};
  for (const auto& [name, samples] : calls) {
    table.AddRow({name, absl::StrCat(samples->count()),
                  FormatElapsed(absl::Microseconds(samples->PercentileUs(0.50))),
                  FormatElapsed(absl::Microseconds(samples->PercentileUs(0.99)))});
  }
  return absl::StrCat(text, "\n", table.Text());
}

Json ReportJson(ReplayResult& result) {
  return {{"lane", result.lane == Lane::kLocal ? "local" : "grpc"},
          {"requests", result.requests},
          {"blocks", result.blocks},
          {"prefix_hit_ratio", result.PrefixHitRatio()},
          {"object_hit_ratio", result.ObjectHitRatio()},
          {"bytes_get", result.bytes_get},
          {"bytes_put", result.bytes_put},
          {"seconds", result.seconds},
          {"match_p50_us", result.match.PercentileUs(0.50)},
          {"match_p99_us", result.match.PercentileUs(0.99)},
          {"get_p50_us", result.get.PercentileUs(0.50)},
          {"get_p99_us", result.get.PercentileUs(0.99)},
          {"put_p50_us", result.put.PercentileUs(0.50)},
          {"put_p99_us", result.put.PercentileUs(0.99)},
          {"prefix_blocks", result.prefix_blocks},
          {"present_blocks", result.present_blocks},
          {"lost_blocks", result.lost_blocks},
          {"stored_blocks", result.stored_blocks},
          {"existing_blocks", result.existing_blocks},
          {"refused_blocks", result.refused_blocks},
          {"wrong_blocks", result.wrong_blocks},
          {"wrong_bytes", result.wrong_bytes}};
}

v1::NamespaceSpec SpecFor(uint64_t blocks, const ReplayArguments& arguments) {
  v1::NamespaceSpec spec;
  spec.set_name(absl::StrCat("replay-", getpid(), "-", absl::ToUnixMillis(absl::Now())));
  spec.set_live_objects(blocks);
  spec.set_live_object_bytes(arguments.options.block_bytes);
  spec.set_policy(arguments.policy);
  spec.set_virtual_clock(arguments.virtual_clock);
  spec.set_grpc_open(true);
  return spec;
}

// A creation that ran out of time may still succeed in the daemon: nobody would know its namespace.
absl::StatusOr<v1::NamespaceSpec> MakeNamespace(AdminClient& admin, const v1::NamespaceSpec& spec,
                                                absl::Duration deadline) {
  auto made = admin.CreateNamespace(spec, {.deadline = deadline});
  if (!absl::IsDeadlineExceeded(made.status())) return made;
  const absl::Status deleted = admin.DeleteNamespace(spec.name(), {.deadline = deadline});
  if (deleted.ok() || absl::IsNotFound(deleted)) return made;
  return absl::Status(made.status().code(),
                      absl::StrCat(made.status().message(), "; namespace ", spec.name(),
                                   " may be left behind: ", deleted.message()));
}

absl::StatusOr<ExitCode> RunReplay(const Context& context, const ReplayArguments& arguments) {
  if (arguments.options.block_bytes == 0 || arguments.options.block_bytes > kMaxObjectBytes) {
    return absl::InvalidArgumentError("--block-bytes must be above 0 and at most 1TiB");
  }
  ASSIGN_OR_RETURN(const Trace trace, Trace::Load(arguments.trace_file));
  const uint64_t capacity_blocks = arguments.budget.Resolve(trace.unique_blocks());

  const v1::NamespaceSpec spec = SpecFor(capacity_blocks, arguments);
  ASSIGN_OR_RETURN(ClientOptions client_options, context.MakeClientOptions(kCallDeadline));
  ASSIGN_OR_RETURN(const ClientOptions creation_options,
                   context.MakeClientOptions(CreationDeadline(NeededBytes(spec))));
  const absl::Duration creation_deadline = creation_options.deadline;
  ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(client_options));
  // Once the namespace exists, an interrupt must not leave it behind.
  const InterruptGuard guard;
  ASSIGN_OR_RETURN(const v1::NamespaceSpec made, MakeNamespace(*admin, spec, creation_deadline));
  client_options.namespace_name = made.name();
  ReplayOptions replay_options = arguments.options;
  if (arguments.virtual_clock) {
    replay_options.tell_time = [&admin, &made](uint64_t timestamp_ms) {
      return admin->AdvanceClock(made.name(), timestamp_ms);
    };
  }

  auto result = [&] {
    Progress progress("replay");
    const auto total = static_cast<double>(trace.requests().size());
    return Replay(trace, replay_options, client_options, [&](uint64_t done) {
      progress.Show(static_cast<double>(done), total);
      return !guard.interrupted();
    });
  }();
  const absl::Status deleted =
      arguments.keep ? absl::OkStatus() : admin->DeleteNamespace(made.name());
  RETURN_IF_ERROR(result.status());

  Json report = {{"trace", arguments.trace_file},
                 {"namespace", made.name()},
                 {"block_bytes", arguments.options.block_bytes},
                 {"capacity_blocks", capacity_blocks},
                 {"unique_blocks", trace.unique_blocks()},
                 {"clients", arguments.options.clients}};
  report.update(ReportJson(*result));
  Print(context.json() ? JsonLine(report) : ReportText(*result, report));
  if (result->wrong_bytes > 0) {
    std::fputs(absl::StrCat("infercachectl replay: ", result->wrong_bytes, " wrong bytes in ",
                            result->wrong_blocks, " blocks\n")
                   .c_str(),
               stderr);
    return ExitCode::kWrongBytes;
  }
  RETURN_IF_ERROR(deleted);
  return guard.interrupted() ? ExitCode::kInterrupted : ExitCode::kOk;
}

}  // namespace

void AddReplayCommand(CommandLine& line) {
  auto* replay = line.app.add_subcommand(
      "replay",
      "Drive the daemon with a request trace in a namespace of its own; report hit ratios");
  replay->footer(
      "Per request: Match of the chain, Get of the cached prefix (every byte is checked), Put of\n"
      "the rest. Ratios are shares of all blocks: prefix = before the first missing one of their\n"
      "request, object = present anywhere in it.");
  const auto arguments = std::make_shared<ReplayArguments>();
  AddTraceOption(*replay, arguments->trace_file);
  AddParsedOption(*replay, "--block-bytes", arguments->options.block_bytes, ParseSize, "SIZE",
                  "Bytes of a block, as in 64KiB")
      ->required();
  AddParsedOption(*replay, "--blocks", arguments->budget, ParseBlockBudget, "N|P%",
                  "Blocks that the namespace may hold: a count, or a share of the trace's "
                  "different blocks")
      ->required();
  replay
      ->add_option("--clients", arguments->options.clients,
                   "Threads with a client each; they take requests in the order of the trace [1]")
      ->type_name("N")
      ->check(CLI::Range(1, 1024).description(""));
  replay->add_option("--policy", arguments->policy, "Eviction policy of the namespace [auto]")
      ->type_name("NAME");
  replay->add_flag("--virtual-clock", arguments->virtual_clock,
                   "Eviction goes by the trace's time, as in simulate; the daemon must allow it "
                   "(--allow-virtual-clock)");
  replay->add_flag("--keep", arguments->keep, "Leave the namespace and its objects in the daemon");
  replay->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) { return RunReplay(context, *arguments); };
  });
}

}  // namespace infercache::cli
