// bench: the command around bench.h.

#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/bench.h"
#include "client/cli/context.h"
#include "client/cli/parallel.h"
#include "client/cli/progress.h"
#include "client/cli/units.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

const char* OpName(BenchOp op) {
  switch (op) {
    case BenchOp::kGet:
      return "get";
    case BenchOp::kPut:
      return "put";
    case BenchOp::kMatch:
      return "match";
  }
  return "";
}

Json ReportJson(const BenchOptions& options, BenchResult& result) {
  return {{"op", OpName(options.op)},
          {"size_bytes", options.size_bytes},
          {"clients", options.clients},
          {"keys", options.keys},
          {"seconds", result.seconds},
          {"ops", result.ops},
          {"ops_per_second", static_cast<double>(result.ops) / result.seconds},
          {"bytes_per_second", static_cast<double>(result.bytes) / result.seconds},
          {"p50_us", result.latency.PercentileUs(0.50)},
          {"p90_us", result.latency.PercentileUs(0.90)},
          {"p99_us", result.latency.PercentileUs(0.99)},
          {"max_us", result.latency.PercentileUs(1)},
          {"errors", result.errors},
          {"misses", result.misses}};
}

std::string ReportText(const Json& report) {
  const auto number = [&](const char* name) { return report[name].get<double>(); };
  const auto us = [&](const char* name) {
    return FormatElapsed(absl::Microseconds(report[name].get<double>()));
  };
  Table table({{"OP", Table::Align::kLeft},
               {"SIZE"},
               {"CLIENTS"},
               {"OPS"},
               {"OPS/S"},
               {"BYTES/S"},
               {"P50"},
               {"P90"},
               {"P99"},
               {"MAX"},
               {"ERRORS"},
               {"MISSES"}});
  table.AddRow({report["op"], FormatSize(number("size_bytes")), report["clients"].dump(),
                report["ops"].dump(), FormatCount(number("ops_per_second")),
                FormatSize(number("bytes_per_second")), us("p50_us"), us("p90_us"), us("p99_us"),
                us("max_us"), report["errors"].dump(), report["misses"].dump()});
  return table.Text();
}

absl::StatusOr<ExitCode> RunBench(const Context& context, BenchOptions options) {
  if (options.size_bytes == 0 || options.size_bytes > kMaxObjectBytes) {
    return absl::InvalidArgumentError("--size must be above 0 and at most 1TiB");
  }
  if (options.keys == 0) options.keys = DefaultKeys(options.op, options.size_bytes);
  ASSIGN_OR_RETURN(const ClientOptions client_options, context.MakeClientOptions());
  const InterruptGuard guard;
  auto result = [&] {
    Progress progress(absl::StrCat("bench ", OpName(options.op)));
    return Bench(options, client_options, [&](double seconds) {
      progress.Show(seconds, options.seconds);
      return !guard.interrupted();
    });
  }();
  RETURN_IF_ERROR(result.status());

  const Json report = ReportJson(options, *result);
  Print(context.json() ? JsonLine(report) : ReportText(report));
  if (result->errors > 0) {
    return absl::Status(
        result->first_error.code(),
        absl::StrCat(result->errors, " calls failed, one with: ", result->first_error.message()));
  }
  return guard.interrupted() ? ExitCode::kInterrupted : ExitCode::kOk;
}

}  // namespace

void AddBenchCommand(CommandLine& line) {
  auto* bench = line.app.add_subcommand(
      "bench", "Measure throughput and latency of one operation, closed loop");
  bench->footer(
      "get and put take one key a call, match one chain of all keys. Works in --namespace on keys\n"
      "of its own (infercachectl-bench/...), which it stores before and deletes after. Misses "
      "mean\n"
      "that the namespace is too small for --keys values of --size.");
  const auto options = std::make_shared<BenchOptions>();
  const std::map<std::string, BenchOp> ops = {
      {"get", BenchOp::kGet}, {"put", BenchOp::kPut}, {"match", BenchOp::kMatch}};
  bench->add_option("--op", options->op, "What to measure")
      ->type_name("get|put|match")
      ->required()
      ->transform(CLI::CheckedTransformer(ops, CLI::ignore_case).description(""));
  AddParsedOption(*bench, "--size", options->size_bytes, ParseSize, "SIZE",
                  "Bytes of a value, as in 64KiB [4KiB]");
  bench->add_option("--seconds", options->seconds, "How long to measure [5]")
      ->type_name("N")
      ->check(CLI::Range(0.01, 86400.0).description(""));
  bench->add_option("--clients", options->clients, "Threads with a client each [1]")
      ->type_name("N")
      ->check(CLI::Range(1, 1024).description(""));
  bench
      ->add_option("--keys", options->keys,
                   "Different keys [match 4096; get and put what makes 64 MiB, 16 to 4096]")
      ->type_name("N")
      ->check(CLI::Range(1, static_cast<int>(kMaxKeysPerCall)).description(""));
  bench->callback([&line, options] {
    line.selected = [options](const Context& context) { return RunBench(context, *options); };
  });
}

}  // namespace infercache::cli
