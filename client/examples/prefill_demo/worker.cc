#include "client/examples/prefill_demo/worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "client/examples/prefill_demo/block_keys.h"
#include "client/examples/prefill_demo/turn_report.h"
#include "common/status_macros.h"
#include "infercache/client.h"

namespace infercache::demo {
namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class Worker {
 public:
  Worker(const WorkerOptions& options, std::unique_ptr<Client> client)
      : options_(options),
        model_(options.model),
        client_(std::move(client)),
        parts_(options.model.layers,
               PartSpec{.dtype = DataType::kFloat32,
                        .shape = {2, options.model.heads, kBlockTokens, options.model.head_dim},
                        .size_bytes = options.model.layer_floats() * sizeof(float)}) {}

  TurnReport Answer(size_t turn, std::span<const Token> prompt);

 private:
  void ReuseBlocks(const std::vector<std::string>& keys, KvCache& cache, TurnReport& report);
  std::vector<float> ComputeRest(std::span<const Token> prompt,
                                 const std::vector<std::string>& keys, KvCache& cache,
                                 TurnReport& report);
  void StoreBlock(const std::vector<std::string>& keys, size_t index, double seconds,
                  KvCache& cache, TurnReport& report);
  std::string Decode(std::vector<float> logits, KvCache& cache) const;

  const WorkerOptions& options_;
  const Model model_;
  const std::unique_ptr<Client> client_;
  const std::vector<PartSpec> parts_;
};

TurnReport Worker::Answer(size_t turn, std::span<const Token> prompt) {
  TurnReport report;
  report.turn = turn;
  report.prompt_tokens = prompt.size();
  const std::vector<std::string> keys = BlockKeys(prompt);
  KvCache cache(options_.model);
  if (options_.reads_cache) ReuseBlocks(keys, cache, report);
  std::vector<float> logits = ComputeRest(prompt, keys, cache, report);
  for (const float logit : logits) report.logit_bits.push_back(std::bit_cast<uint32_t>(logit));
  report.answer = Decode(std::move(logits), cache);
  return report;
}

void Worker::ReuseBlocks(const std::vector<std::string>& keys, KvCache& cache, TurnReport& report) {
  const Stopwatch stopwatch;
  // The last token is always computed: its logits are the answer's beginning.
  const size_t reusable = std::min(keys.size(), (report.prompt_tokens - 1) / kBlockTokens);
  const std::vector<std::string_view> wanted(keys.begin(),
                                             keys.begin() + static_cast<ptrdiff_t>(reusable));
  const MatchResult match = client_->Match(wanted);
  if (!match.status.ok()) report.cache_error = std::string(match.status.message());
  for (size_t i = 0; i < match.prefix_length; ++i) {
    const std::span<std::byte> memory = std::as_writable_bytes(cache.block(i));
    const GetIntoResult got = client_->GetInto(wanted[i], memory);
    if (!got.status.ok()) report.cache_error = std::string(got.status.message());
    if (!got.hit || got.size_bytes != memory.size()) {
      std::fill(cache.block(i).begin(), cache.block(i).end(), 0.0f);
      break;  // evicted since it matched: computed below
    }
    cache.SetLength((i + 1) * kBlockTokens);
  }
  report.reused_tokens = cache.length();
  report.fetch_seconds = stopwatch.seconds();
}

std::vector<float> Worker::ComputeRest(std::span<const Token> prompt,
                                       const std::vector<std::string>& keys, KvCache& cache,
                                       TurnReport& report) {
  std::vector<float> logits;
  while (cache.length() < prompt.size()) {
    const size_t first = cache.length();
    const size_t count = std::min(kBlockTokens, prompt.size() - first);
    const Stopwatch stopwatch;
    logits = model_.Extend(prompt.subspan(first, count), cache);
    const double seconds = stopwatch.seconds();
    report.compute_seconds += seconds;
    if (count == kBlockTokens) StoreBlock(keys, first / kBlockTokens, seconds, cache, report);
  }
  return logits;
}

void Worker::StoreBlock(const std::vector<std::string>& keys, size_t index, double seconds,
                        KvCache& cache, TurnReport& report) {
  const Stopwatch stopwatch;
  PutItem item;
  item.key = keys[index];
  item.info.kind = ObjectKind::kKv;
  item.info.compute_cost_ms = static_cast<float>(seconds * 1000);
  if (index > 0) item.info.parent_key = keys[index - 1];
  item.parts = parts_;
  item.value = {std::as_bytes(cache.block(index))};
  const PutResult put = client_->Put(item);
  report.store_seconds += stopwatch.seconds();
  if (put.outcome == PutOutcome::kStored) ++report.stored_blocks;
  if (put.outcome == PutOutcome::kExists) ++report.existing_blocks;
  if (!put.status.ok()) report.cache_error = std::string(put.status.message());
}

// Greedy, from the printable characters only: the weights are random, the terminal is not.
std::string Worker::Decode(std::vector<float> logits, KvCache& cache) const {
  std::string answer;
  while (answer.size() < options_.answer_tokens) {
    const auto best = std::max_element(logits.begin() + ' ', logits.begin() + '~' + 1);
    const auto token = static_cast<Token>(best - logits.begin());
    answer.push_back(static_cast<char>(token));
    if (answer.size() < options_.answer_tokens) {
      logits = model_.Extend(std::span(&token, 1), cache);
    }
  }
  return answer;
}

void Append(std::vector<Token>& tokens, std::string_view text) {
  tokens.insert(tokens.end(), text.begin(), text.end());
}

}  // namespace

absl::Status RunWorker(const WorkerOptions& options) {
  ClientOptions client_options;
  client_options.endpoint = options.endpoint;
  client_options.namespace_name = options.namespace_name;
  client_options.fingerprint = BlockFingerprint(options.model);
  ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Connect(std::move(client_options)));
  Worker worker(options, std::move(client));
  std::vector<Token> conversation = options.document;
  for (size_t turn = 1; turn <= options.questions.size(); ++turn) {
    Append(conversation, fmt::format("\n\nQuestion: {}\nAnswer: ", options.questions[turn - 1]));
    const TurnReport report = worker.Answer(turn, conversation);
    Append(conversation, report.answer);
    fmt::print("{}\n", ToJson(report));
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace infercache::demo
