// Two inference workers answer the same conversation about the same document. The first computes
// every prompt and stores its blocks in infercached; the second, another process, asks the cache
// first and computes the rest. Prints what that saved and checks that both computed the same
// logits, bit for bit.
//
// Exit status: 0 as it should be, 1 a check failed or a worker broke, 2 usage.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "client/examples/prefill_demo/model.h"
#include "client/examples/prefill_demo/turn_report.h"
#include "client/examples/prefill_demo/worker.h"
#include "client/examples/prefill_demo/worker_process.h"
#include "common/status_macros.h"
#include "infercache/client.h"

namespace infercache::demo {
namespace {

struct Options {
  std::vector<std::string> documents = {INFERCACHE_DEMO_DOCUMENTS};
  size_t document_tokens = 5000;
  size_t answer_tokens = 32;
  size_t layers = 4;
  std::string endpoint;  // empty = the client library's default
  std::string namespace_name = "default";
  uint64_t seed = 42;
  bool require_hits = false;
  int worker = 0;  // 0 = the parent
};

const std::vector<std::string>& Questions() {
  static const std::vector<std::string> questions = {
      "What is this program for?",
      "What happens when a worker dies while it writes a block?",
      "Which two commands show that it works?",
  };
  return questions;
}

absl::StatusOr<std::vector<Token>> ReadDocuments(const Options& options) {
  std::vector<Token> text;
  for (const std::string& path : options.documents) {
    std::ifstream file(path, std::ios::binary);
    text.insert(text.end(), std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (!file.is_open() || file.bad()) {
      return absl::NotFoundError(fmt::format("cannot read document {}", path));
    }
  }
  text.resize(std::min(text.size(), options.document_tokens));
  return text;
}

ModelConfig ModelOf(const Options& options) {
  ModelConfig model;
  model.layers = options.layers;
  model.seed = options.seed;
  return model;
}

absl::Status ServeAsWorker(const Options& options) {
  ASSIGN_OR_RETURN(std::vector<Token> document, ReadDocuments(options));
  WorkerOptions worker;
  worker.endpoint = options.endpoint;
  worker.namespace_name = options.namespace_name;
  worker.reads_cache = options.worker == 2;
  worker.answer_tokens = options.answer_tokens;
  worker.model = ModelOf(options);
  worker.document = std::move(document);
  worker.questions = Questions();
  return RunWorker(worker);
}

// How the workers will reach the cache.
absl::StatusOr<std::string> DescribeLane(const Options& options) {
  ClientOptions client_options;
  client_options.endpoint = options.endpoint;
  client_options.namespace_name = options.namespace_name;
  ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Client::Connect(client_options));
  const std::string endpoint = options.endpoint.empty() ? "default endpoint" : options.endpoint;
  return fmt::format(
      "{}, {}", client->lane() == Lane::kLocal ? "same-host lane (shared memory)" : "gRPC lane",
      endpoint);
}

void PrintIntroduction(const Options& options, const std::string& lane, size_t document_tokens) {
  const Model model(ModelOf(options));
  const ModelConfig& config = model.config();
  std::string names;
  for (const std::string& path : options.documents) {
    names += (names.empty() ? "" : ", ") + std::filesystem::path(path).filename().string();
  }
  fmt::print("prefill_demo: two workers, one cache, one conversation about a document\n\n");
  fmt::print("  model     {} layers, {} heads of {}, {:.1f} M parameters, float32, one core;\n",
             config.layers, config.heads, config.head_dim,
             static_cast<double>(model.parameter_count()) / 1e6);
  fmt::print(
      "            random weights (seed {}): the answers are noise, the computation is not\n",
      config.seed);
  fmt::print("  document  {} tokens (bytes) of {}\n", document_tokens, names);
  fmt::print("  cache     {}, namespace {};\n            blocks of {} tokens, {:.1f} MiB each\n\n",
             lane, options.namespace_name, kBlockTokens,
             static_cast<double>(config.block_floats() * sizeof(float)) / (1 << 20));
}

void PrintTurn(const TurnReport& turn) {
  if (turn.turn == 1) {
    fmt::print("    turn   prompt   reused   computed    fetch   compute   prefill   stored\n");
  }
  fmt::print(
      "    {:>4}   {:>6}   {:>6}   {:>8}   {:>4.0f} ms   {:>5.2f} s   {:>5.2f} s   {}\n", turn.turn,
      turn.prompt_tokens, turn.reused_tokens, turn.prompt_tokens - turn.reused_tokens,
      turn.fetch_seconds * 1000, turn.compute_seconds, turn.prefill_seconds(),
      turn.existing_blocks == 0
          ? fmt::format("{} blocks", turn.stored_blocks)
          : fmt::format("{} blocks, {} were there", turn.stored_blocks, turn.existing_blocks));
  std::fflush(stdout);
}

// Starts worker `number` and returns its turns, printed as they come.
absl::StatusOr<std::vector<TurnReport>> RunWorkerProcess(std::vector<std::string> arguments,
                                                         int number) {
  arguments.push_back(fmt::format("--worker={}", number));
  ASSIGN_OR_RETURN(WorkerProcess process, WorkerProcess::Start(arguments));
  fmt::print("  worker {} (pid {}): {}\n", number, process.pid(),
             number == 1 ? "computes every prompt from its first token and stores the blocks"
                         : "asks the cache first and computes the rest");
  std::fflush(stdout);
  std::vector<TurnReport> turns;
  while (std::optional<std::string> line = process.ReadLine()) {
    ASSIGN_OR_RETURN(TurnReport turn, TurnReportFromJson(*line));
    PrintTurn(turn);
    turns.push_back(std::move(turn));
  }
  RETURN_IF_ERROR(process.Join());
  if (turns.size() != Questions().size()) {
    return absl::InternalError(
        fmt::format("worker {} answered {} of {} turns", number, turns.size(), Questions().size()));
  }
  fmt::print("\n");
  return turns;
}

void PrintConversation(const std::vector<TurnReport>& turns) {
  for (const TurnReport& turn : turns) {
    fmt::print("  question  {}\n  answer    {}\n", Questions()[turn.turn - 1], turn.answer);
  }
  fmt::print("\n");
}

void PrintComparison(const std::vector<TurnReport>& cold, const std::vector<TurnReport>& warm) {
  fmt::print("    turn   cold prefill   warm prefill   speed-up   tokens reused   logits\n");
  double cold_total = 0;
  double warm_total = 0;
  size_t reused = 0;
  size_t prompts = 0;
  for (size_t i = 0; i < cold.size(); ++i) {
    const double cold_seconds = cold[i].prefill_seconds();
    const double warm_seconds = warm[i].prefill_seconds();
    fmt::print("    {:>4}   {:>10.3f} s   {:>10.3f} s   {:>7.1f}x   {:>5} of {:>5}   {}\n", i + 1,
               cold_seconds, warm_seconds, cold_seconds / warm_seconds, warm[i].reused_tokens,
               warm[i].prompt_tokens,
               cold[i].logit_bits == warm[i].logit_bits ? "identical" : "DIFFERENT");
    cold_total += cold_seconds;
    warm_total += warm_seconds;
    reused += warm[i].reused_tokens;
    prompts += warm[i].prompt_tokens;
  }
  fmt::print("\n  {} of {} prompt tokens reused", reused, prompts);
  if (reused > 0) {
    fmt::print("; {:.2f} s of {:.2f} s of prefill saved", cold_total - warm_total, cold_total);
  }
  fmt::print("\n");
}

// What is wrong with the run, or OK.
absl::Status Check(const Options& options, const std::vector<TurnReport>& cold,
                   const std::vector<TurnReport>& warm) {
  for (size_t i = 0; i < cold.size(); ++i) {
    if (cold[i].prompt_tokens != warm[i].prompt_tokens ||
        cold[i].logit_bits != warm[i].logit_bits || cold[i].answer != warm[i].answer) {
      return absl::DataLossError(
          fmt::format("turn {}: the logits with the cache are not those without it", i + 1));
    }
    const size_t reusable = (warm[i].prompt_tokens - 1) / kBlockTokens * kBlockTokens;
    if (options.require_hits && warm[i].reused_tokens != reusable) {
      return absl::NotFoundError(fmt::format("turn {}: {} of {} cached tokens were reused", i + 1,
                                             warm[i].reused_tokens, reusable));
    }
  }
  return absl::OkStatus();
}

// The first reason for which the cache did not help, if there was one.
std::string CacheError(const std::vector<TurnReport>& turns) {
  const auto failed = std::find_if(turns.begin(), turns.end(),
                                   [](const TurnReport& t) { return !t.cache_error.empty(); });
  return failed == turns.end() ? "" : failed->cache_error;
}

absl::Status Demonstrate(const Options& options, const std::vector<std::string>& arguments) {
  ASSIGN_OR_RETURN(const std::vector<Token> document, ReadDocuments(options));
  ASSIGN_OR_RETURN(const std::string lane, DescribeLane(options));
  PrintIntroduction(options, lane, document.size());
  ASSIGN_OR_RETURN(const std::vector<TurnReport> cold, RunWorkerProcess(arguments, 1));
  ASSIGN_OR_RETURN(const std::vector<TurnReport> warm, RunWorkerProcess(arguments, 2));
  PrintConversation(warm);
  PrintComparison(cold, warm);
  for (const auto& [number, turns] : {std::pair{1, &cold}, std::pair{2, &warm}}) {
    if (const std::string error = CacheError(*turns); !error.empty()) {
      fmt::print("  worker {} answered without help of the cache: {}\n", number, error);
    }
  }
  RETURN_IF_ERROR(Check(options, cold, warm));
  fmt::print("  logits of {} turns are identical, bit for bit, with and without the cache\n",
             cold.size());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Two workers answer a conversation; the second reuses what the first computed.");
  app.add_option("--document", options.documents, "Text to talk about; may be given several times")
      ->capture_default_str();
  app.add_option("--document-tokens", options.document_tokens, "Use at most its first N bytes")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--answer-tokens", options.answer_tokens, "Tokens to decode for each answer")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--layers", options.layers, "Layers of the model")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Seed of the model's weights")->capture_default_str();
  app.add_option(
         "--endpoint", options.endpoint,
         "unix:PATH (shared memory) or HOST:PORT (gRPC) of the daemon; default: its socket, "
         "if there is one, else 127.0.0.1:7400")
      ->envname("INFERCACHE_ENDPOINT");
  app.add_option("--namespace", options.namespace_name, "Namespace for the blocks")
      ->capture_default_str();
  app.add_flag("--require-hits", options.require_hits,
               "Fail unless the second worker reuses every full block");
  app.add_option("--worker", options.worker, "Serve as worker 1 or 2 (the demo starts them)")
      ->check(CLI::Range(1, 2));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status =
      options.worker == 0 ? Demonstrate(options, std::vector<std::string>(argv, argv + argc))
                          : ServeAsWorker(options);
  if (status.ok()) return 0;
  std::fflush(stdout);
  fmt::print(stderr, "prefill_demo: {}\n", std::string(status.message()));
  return 1;
}

}  // namespace
}  // namespace infercache::demo

int main(int argc, char** argv) { return infercache::demo::Main(argc, argv); }
