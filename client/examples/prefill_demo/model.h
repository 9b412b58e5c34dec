// A decoder-only transformer, small enough to read and large enough that a prompt of some thousand
// tokens costs seconds on one core: pre-norm blocks of causal multi-head attention with rotary
// positions and a SiLU MLP, float32, one token per byte of text. Its weights are drawn from a
// seeded generator, so what it says is noise; what it computes for that is what a trained one
// would.
//
// Determinism: keys, values and logits of a position depend on the tokens up to it and on nothing
// else, bit for bit: not on how Extend() was called, not on what else was computed.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/examples/prefill_demo/matmul.h"

namespace infercache::demo {

using Token = uint8_t;  // a byte of text

// Tokens per cached block.
inline constexpr size_t kBlockTokens = 256;

struct ModelConfig {
  size_t layers = 4;
  size_t heads = 4;
  size_t head_dim = 64;
  size_t vocabulary = 256;
  uint64_t seed = 42;

  size_t width() const { return heads * head_dim; }
  size_t mlp_width() const { return 4 * width(); }
  // Floats of keys and values for one block: [layer][key, value][head][token][head_dim].
  size_t layer_floats() const { return 2 * heads * kBlockTokens * head_dim; }
  size_t block_floats() const { return layers * layer_floats(); }
};

// Keys and values of one conversation, in blocks of kBlockTokens positions; unwritten positions are
// zero. Not thread-safe.
class KvCache {
 public:
  explicit KvCache(const ModelConfig& config) : config_(config) {}

  // Positions that are filled.
  size_t length() const { return length_; }
  // The memory of block `index`, made if need be; it stays where it is while the cache lives.
  std::span<float> block(size_t index);
  // Says that all positions below `length` are filled. REQUIRES: their blocks were made.
  void SetLength(size_t length);

 private:
  const ModelConfig config_;
  size_t length_ = 0;
  std::vector<std::vector<float>> blocks_;
};

// Immutable once constructed: const methods may be called from several threads at once.
class Model {
 public:
  explicit Model(const ModelConfig& config);

  // Computes keys and values of `tokens`, which follow what is in the cache, and returns the logits
  // after the last of them. REQUIRES: 1 to kBlockTokens tokens that end in the block they start in.
  std::vector<float> Extend(std::span<const Token> tokens, KvCache& cache) const;

  const ModelConfig& config() const { return config_; }
  size_t parameter_count() const;
  // Floating-point operations of Extend() from an empty cache to `length`, by the usual count.
  double PrefillFlops(size_t length) const;

 private:
  struct Layer {
    explicit Layer(const ModelConfig& config);
    PackedMatrix query_key_value;
    PackedMatrix attention_out;
    PackedMatrix mlp_up;
    PackedMatrix mlp_down;
  };

  void Attend(size_t layer, std::span<const float> query_key_value, size_t count, KvCache& cache,
              std::span<float> out) const;
  void StoreKeysAndValues(size_t layer, std::span<float> query_key_value, size_t count,
                          KvCache& cache) const;

  const ModelConfig config_;
  std::vector<float> embedding_;       // [vocabulary][width]
  std::vector<float> inverse_period_;  // [head_dim / 2], of the rotary positions
  std::vector<Layer> layers_;
  PackedMatrix logits_;
};

}  // namespace infercache::demo
