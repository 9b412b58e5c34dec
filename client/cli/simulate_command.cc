// simulate: the command around simulate.h and belady.h; lists of policies and capacities, and the
// table.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/belady.h"
#include "client/cli/context.h"
#include "client/cli/parallel.h"
#include "client/cli/progress.h"
#include "client/cli/simulate.h"
#include "client/cli/trace.h"
#include "client/cli/units.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "server/store/eviction/policy.h"

namespace infercache::cli {
namespace {

constexpr int kPasses = 5;
constexpr uint64_t kLeastOperations = 1'000'000;

struct Capacity {
  std::string text;  // as given
  BlockBudget budget;
};

struct SimulateArguments {
  std::string trace_file;
  std::vector<std::string> policies;
  std::vector<Capacity> capacities;
  uint64_t block_bytes = 256 * 1024;
  uint32_t shards = 64;
};

struct Row {
  std::string policy, capacity;
  uint64_t capacity_blocks = 0;
  double prefix_hit_ratio = 0, object_hit_ratio = 0;
  std::optional<double> ns_per_op, bytes_per_object;
};

absl::StatusOr<std::vector<std::string>> ParsePolicies(std::string_view text) {
  std::vector<std::string> names = absl::StrSplit(std::string(text), ',');
  for (const std::string& name : names) RETURN_IF_ERROR(store::CheckPolicyName(name));
  return names;
}

absl::StatusOr<std::vector<Capacity>> ParseCapacities(std::string_view text) {
  std::vector<Capacity> capacities;
  const std::vector<std::string> parts = absl::StrSplit(std::string(text), ',');
  for (const std::string& part : parts) {
    ASSIGN_OR_RETURN(const BlockBudget budget, ParseBlockBudget(part));
    capacities.push_back({part, budget});
  }
  return capacities;
}

double Share(uint64_t part, const Trace& trace) {
  return trace.blocks() == 0 ? 0 : static_cast<double>(part) / static_cast<double>(trace.blocks());
}

absl::StatusOr<Row> SimulateOne(const Trace& trace, const SimulateArguments& arguments,
                                const std::string& policy, const Capacity& capacity) {
  const SimulationOptions options{.policy = policy,
                                  .capacity_blocks = capacity.budget.Resolve(trace.unique_blocks()),
                                  .shards = arguments.shards,
                                  .block_bytes = arguments.block_bytes};
  ASSIGN_OR_RETURN(const SimulationResult result, Simulate(trace, options));
  ASSIGN_OR_RETURN(const double ns, MeasurePolicy(trace, options, kPasses, kLeastOperations));
  return Row{.policy = policy,
             .capacity = capacity.text,
             .capacity_blocks = options.capacity_blocks,
             .prefix_hit_ratio = Share(result.prefix_blocks, trace),
             .object_hit_ratio = Share(result.present_blocks, trace),
             .ns_per_op = ns,
             .bytes_per_object = result.bytes_per_object};
}

Row Optimum(const Trace& trace, const Capacity& capacity) {
  const uint64_t blocks = capacity.budget.Resolve(trace.unique_blocks());
  const OptimalHits hits = BeladyHits(trace.requests(), blocks);
  return {.policy = "belady",
          .capacity = capacity.text,
          .capacity_blocks = blocks,
          .prefix_hit_ratio = Share(hits.prefix_blocks, trace),
          .object_hit_ratio = Share(hits.present_blocks, trace),
          .ns_per_op = {},
          .bytes_per_object = {}};
}

std::string RowsText(const std::vector<Row>& rows) {
  Table table({{"POLICY", Table::Align::kLeft},
               {"CAPACITY"},
               {"PREFIX_HIT_RATIO"},
               {"OBJECT_HIT_RATIO"},
               {"NS_PER_OP"},
               {"BYTES_PER_OBJECT"}});
  const auto number = [](const std::optional<double>& value) {
    return value.has_value() ? fmt::format("{:.0f}", *value) : "-";
  };
  for (const Row& row : rows) {
    table.AddRow({row.policy, row.capacity, fmt::format("{:.4f}", row.prefix_hit_ratio),
                  fmt::format("{:.4f}", row.object_hit_ratio), number(row.ns_per_op),
                  number(row.bytes_per_object)});
  }
  return table.Text();
}

Json RowsJson(const std::vector<Row>& rows) {
  Json json = Json::array();
  const auto number = [](const std::optional<double>& value) {
    return value.has_value() ? Json(*value) : Json();
  };
  for (const Row& row : rows) {
    json.push_back({{"policy", row.policy},
                    {"capacity", row.capacity},
                    {"capacity_blocks", row.capacity_blocks},
                    {"prefix_hit_ratio", row.prefix_hit_ratio},
                    {"object_hit_ratio", row.object_hit_ratio},
                    {"ns_per_op", number(row.ns_per_op)},
                    {"bytes_per_object", number(row.bytes_per_object)}});
  }
  return json;
}

// A row for each policy and capacity, and the optimum's. Fewer if it is interrupted.
absl::StatusOr<std::vector<Row>> SimulateAll(const Trace& trace, const SimulateArguments& arguments,
                                             const InterruptGuard& guard) {
  const double total =
      static_cast<double>(arguments.capacities.size() * (arguments.policies.size() + 1));
  Progress progress("simulate");
  std::vector<Row> rows;
  const auto add = [&](Row row) {
    rows.push_back(std::move(row));
    progress.Show(static_cast<double>(rows.size()), total);
  };
  for (const Capacity& capacity : arguments.capacities) {
    for (const std::string& policy : arguments.policies) {
      ASSIGN_OR_RETURN(Row row, SimulateOne(trace, arguments, policy, capacity));
      add(std::move(row));
      if (guard.interrupted()) return rows;
    }
    add(Optimum(trace, capacity));
  }
  return rows;
}

absl::StatusOr<ExitCode> RunSimulate(const Context& context, const SimulateArguments& arguments) {
  if (arguments.block_bytes == 0 || arguments.block_bytes > kMaxObjectBytes) {
    return absl::InvalidArgumentError("--block-bytes must be above 0 and at most 1TiB");
  }
  if ((arguments.shards & (arguments.shards - 1)) != 0) {
    return absl::InvalidArgumentError("--shards must be a power of two");
  }
  ASSIGN_OR_RETURN(const Trace trace, Trace::Load(arguments.trace_file));
  const InterruptGuard guard;
  ASSIGN_OR_RETURN(const std::vector<Row> rows, SimulateAll(trace, arguments, guard));
  if (guard.interrupted()) return ExitCode::kInterrupted;
  if (!context.json()) {
    Print(RowsText(rows));
    return ExitCode::kOk;
  }
  Print(JsonLine({{"trace", arguments.trace_file},
                  {"requests", trace.requests().size()},
                  {"blocks", trace.blocks()},
                  {"unique_blocks", trace.unique_blocks()},
                  {"shards", arguments.shards},
                  {"block_bytes", arguments.block_bytes},
                  {"rows", RowsJson(rows)}}));
  return ExitCode::kOk;
}

}  // namespace

void AddSimulateCommand(CommandLine& line) {
  auto* simulate = line.app.add_subcommand(
      "simulate", "Run the daemon's eviction policies on a request trace; report hit ratios");
  simulate->footer(
      "Runs the store in this process, under the trace's own time; asks no daemon. Ratios are\n"
      "shares of all blocks: prefix = before the first missing one of their request, object =\n"
      "present anywhere in it; belady is the optimum, which knows the future. ns_per_op is what\n"
      "the policy alone takes for the use of a block, bytes_per_object what it keeps for each\n"
      "object that is there, with what it remembers of others.");
  const auto arguments = std::make_shared<SimulateArguments>();
  AddTraceOption(*simulate, arguments->trace_file);
  AddParsedOption(*simulate, "--policy", arguments->policies, ParsePolicies, "P[,P...]",
                  absl::StrCat("Of ", store::PolicyNames()))
      ->required();
  AddParsedOption(*simulate, "--capacity", arguments->capacities, ParseCapacities, "N|P%[,...]",
                  "Blocks that there is room for: a count, or a share of the trace's different "
                  "blocks")
      ->required();
  simulate->add_option("--shards", arguments->shards, "Of the index; a power of two [64]")
      ->type_name("N")
      ->check(CLI::Range(1, 65'536).description(""));
  AddParsedOption(*simulate, "--block-bytes", arguments->block_bytes, ParseSize, "SIZE",
                  "What the policies take a block's size to be; nothing is stored [256KiB]");
  simulate->callback([&line, arguments] {
    line.selected = [arguments](const Context& context) {
      return RunSimulate(context, *arguments);
    };
  });
}

}  // namespace infercache::cli
