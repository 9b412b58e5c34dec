// One inference worker: answers the turns of a conversation and reports each on a line of JSON. A
// turn is served as a request that may land on any worker is: nothing is remembered from the turn
// before, what is not in the cache is computed.

#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/examples/prefill_demo/model.h"

namespace infercache::demo {

struct WorkerOptions {
  std::string endpoint;
  std::string namespace_name;
  bool reads_cache = false;  // else it computes every prompt from its first token, and only stores
  size_t answer_tokens = 0;
  ModelConfig model;
  std::vector<Token> document;
  std::vector<std::string> questions;
};

// Serves every turn, a line of JSON on standard output for each as soon as it is done.
// INVALID_ARGUMENT for an endpoint that can never work; a daemon that is not there is no error.
absl::Status RunWorker(const WorkerOptions& options);

}  // namespace infercache::demo
