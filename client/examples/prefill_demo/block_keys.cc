#include "client/examples/prefill_demo/block_keys.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace infercache::demo {

std::vector<std::string> BlockKeys(std::span<const Token> tokens) {
  std::vector<std::string> keys;
  std::string chained;
  for (size_t end = kBlockTokens; end <= tokens.size(); end += kBlockTokens) {
    const auto block = tokens.subspan(end - kBlockTokens, kBlockTokens);
    chained.assign(keys.empty() ? "" : keys.back());
    chained.append(block.begin(), block.end());
    const XXH128_hash_t hash = XXH3_128bits(chained.data(), chained.size());
    keys.push_back(fmt::format("prefill_demo/{:016x}{:016x}", hash.high64, hash.low64));
  }
  return keys;
}

FingerprintEntries BlockFingerprint(const ModelConfig& model) {
  return {{"model", "prefill_demo"},
          {"revision", fmt::format("seed-{}", model.seed)},
          {"dtype", "float32"},
          {"layout", "layer,key-value,head,token,dim"},
          {"layers", std::to_string(model.layers)},
          {"heads", std::to_string(model.heads)},
          {"head_dim", std::to_string(model.head_dim)},
          {"block_tokens", std::to_string(kBlockTokens)}};
}

}  // namespace infercache::demo
