#include "client/examples/prefill_demo/model.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

namespace infercache::demo {
namespace {

constexpr size_t kLanes = 8;  // partial sums of a reduction; position i always goes to i % kLanes

// SplitMix64: the same numbers with every compiler and library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // Uniform in [-limit, limit).
  float Uniform(float limit) {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    const float unit = static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f;
    return (2 * unit - 1) * limit;
  }

 private:
  uint64_t state_;
};

// Inputs of variance 1 get outputs of variance gain^2.
void FillRandom(Random& random, PackedMatrix& matrix, float gain = 1) {
  std::vector<float> rows(matrix.depth() * matrix.columns());
  const float limit = gain * std::sqrt(3.0f / static_cast<float>(matrix.depth()));
  for (float& value : rows) value = random.Uniform(limit);
  matrix.Pack(rows);
}

float SumLanes(const std::array<float, kLanes>& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// e^x for x <= 0, to 2 units in the last place; exactly 0 below -87. Branch-free, so that loops
// over it become vector code, which std::exp does not.
inline float ExpNegative(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // the addend rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent_bits = (static_cast<int32_t>(n) + 127) * (1 << 23);
  float scale;
  __builtin_memcpy(&scale, &exponent_bits, sizeof scale);
  return x < -87.0f ? 0.0f : p * scale;
}

void RmsNorm(std::span<const float> in, size_t width, std::span<float> out) {
  for (size_t row = 0; row < in.size(); row += width) {
    std::array<float, kLanes> squares{};
    for (size_t i = 0; i < width; i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) squares[j] += in[row + i + j] * in[row + i + j];
    }
    const float scale = 1.0f / std::sqrt(SumLanes(squares) / static_cast<float>(width) + 1e-6f);
    for (size_t i = 0; i < width; ++i) out[row + i] = in[row + i] * scale;
  }
}

void Silu(std::span<float> values) {
  for (float& x : values) {
    const float e = ExpNegative(-std::fabs(x));  // sigmoid without overflow
    x = x * (x >= 0 ? 1.0f : e) / (1.0f + e);
  }
}

// Scores of one query become weights, not yet normalised; returns 1 / their sum. Positions from
// `visible` on get exactly 0.
float Softmax(std::span<float> scores, size_t visible, float scale) {
  float largest = scores[0];
  for (size_t i = 1; i < visible; ++i) largest = scores[i] > largest ? scores[i] : largest;
  std::fill(scores.begin() + static_cast<ptrdiff_t>(visible), scores.end(), 0.0f);
  for (size_t i = 0; i < visible; ++i) scores[i] = ExpNegative((scores[i] - largest) * scale);
  std::array<float, kLanes> sums{};
  for (size_t i = 0; i < scores.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) sums[j] += scores[i + j];
  }
  return 1.0f / SumLanes(sums);
}

}  // namespace

std::span<float> KvCache::block(size_t index) {
  while (blocks_.size() <= index) blocks_.emplace_back(config_.block_floats());
  return blocks_[index];
}

void KvCache::SetLength(size_t length) {
  assert(length <= blocks_.size() * kBlockTokens);
  length_ = length;
}

Model::Layer::Layer(const ModelConfig& config)
    : query_key_value(config.width(), 3 * config.width()),
      attention_out(config.width(), config.width()),
      mlp_up(config.width(), config.mlp_width()),
      mlp_down(config.mlp_width(), config.width()) {}

Model::Model(const ModelConfig& config)
    : config_(config),
      embedding_(config.vocabulary * config.width()),
      layers_(config.layers, Layer(config)),
      logits_(config.width(), config.vocabulary) {
  Random random(config.seed);
  for (float& value : embedding_) value = random.Uniform(1.7320508f);
  for (Layer& layer : layers_) {
    // Sharp attention: with scores of variance 1 a thousand positions would average to nothing, and
    // the answers would not depend on the document.
    FillRandom(random, layer.query_key_value, 2);
    FillRandom(random, layer.attention_out);
    FillRandom(random, layer.mlp_up);
    FillRandom(random, layer.mlp_down);
  }
  FillRandom(random, logits_);
  for (size_t i = 0; i < config.head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    inverse_period_.push_back(static_cast<float>(std::pow(10'000.0, exponent)));
  }
}

size_t Model::parameter_count() const {
  const size_t width = config_.width();
  const size_t per_layer = 4 * width * width + 2 * width * config_.mlp_width();
  return config_.layers * per_layer + 2 * config_.vocabulary * width;
}

double Model::PrefillFlops(size_t length) const {
  const auto n = static_cast<double>(length);
  const auto width = static_cast<double>(config_.width());
  const auto mlp_width = static_cast<double>(config_.mlp_width());
  const double projections = n * 2 * (4 * width * width + 2 * width * mlp_width);
  const double attention = 2 * 2 * width * n * (n + 1) / 2;  // causal: half of the square
  return static_cast<double>(config_.layers) * (projections + attention);
}

std::vector<float> Model::Extend(std::span<const Token> tokens, KvCache& cache) const {
  const size_t count = tokens.size();
  const size_t width = config_.width();
  const size_t mlp_width = config_.mlp_width();
  assert(count > 0 && cache.length() % kBlockTokens + count <= kBlockTokens);

  std::vector<float> state(count * width);  // the residual stream
  for (size_t i = 0; i < count; ++i) {
    std::copy_n(embedding_.begin() + static_cast<ptrdiff_t>(tokens[i] * width), width,
                state.begin() + static_cast<ptrdiff_t>(i * width));
  }
  std::vector<float> normed(count * width);
  std::vector<float> attended(count * width);
  std::vector<float> query_key_value(count * 3 * width);
  std::vector<float> hidden(count * mlp_width);
  for (size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    RmsNorm(state, width, normed);
    std::fill(query_key_value.begin(), query_key_value.end(), 0.0f);
    MultiplyAdd({normed.data(), width}, count, layer.query_key_value,
                {query_key_value.data(), 3 * width});
    StoreKeysAndValues(index, query_key_value, count, cache);
    Attend(index, query_key_value, count, cache, attended);
    MultiplyAdd({attended.data(), width}, count, layer.attention_out, {state.data(), width});

    RmsNorm(state, width, normed);
    std::fill(hidden.begin(), hidden.end(), 0.0f);
    MultiplyAdd({normed.data(), width}, count, layer.mlp_up, {hidden.data(), mlp_width});
    Silu(hidden);
    MultiplyAdd({hidden.data(), mlp_width}, count, layer.mlp_down, {state.data(), width});
  }
  cache.SetLength(cache.length() + count);

  const auto last = std::span<const float>(state).last(width);
  RmsNorm(last, width, std::span(normed).first(width));
  std::vector<float> logits(config_.vocabulary);
  MultiplyAdd({normed.data(), width}, 1, logits_, {logits.data(), logits.size()});
  return logits;
}

// Rotates queries and keys by their positions and moves keys and values into the cache.
void Model::StoreKeysAndValues(size_t layer, std::span<float> query_key_value, size_t count,
                               KvCache& cache) const {
  const size_t width = config_.width();
  const size_t head_dim = config_.head_dim;
  const size_t first = cache.length();
  const std::span<float> block =
      cache.block(first / kBlockTokens).subspan(layer * config_.layer_floats());
  std::vector<float> cosine(head_dim / 2);
  std::vector<float> sine(head_dim / 2);
  for (size_t i = 0; i < count; ++i) {
    for (size_t d = 0; d < head_dim / 2; ++d) {
      const float angle = static_cast<float>(first + i) * inverse_period_[d];
      cosine[d] = std::cos(angle);
      sine[d] = std::sin(angle);
    }
    float* row = query_key_value.data() + i * 3 * width;
    for (size_t offset = 0; offset < 2 * width; offset += head_dim) {  // query heads, key heads
      for (size_t d = 0; d < head_dim / 2; ++d) {
        const float x = row[offset + d];
        const float y = row[offset + d + head_dim / 2];
        row[offset + d] = x * cosine[d] - y * sine[d];
        row[offset + d + head_dim / 2] = x * sine[d] + y * cosine[d];
      }
    }
    for (size_t head = 0; head < 2 * config_.heads; ++head) {  // key heads, value heads
      const size_t token = head * kBlockTokens + (first + i) % kBlockTokens;
      std::copy_n(row + width + head * head_dim, head_dim, block.data() + token * head_dim);
    }
  }
}

// For each head: scores = queries * keys^T, weights = softmax(scores), out = weights * values, the
// products taken block by block in the order of positions.
void Model::Attend(size_t layer, std::span<const float> query_key_value, size_t count,
                   KvCache& cache, std::span<float> out) const {
  const size_t width = config_.width();
  const size_t head_dim = config_.head_dim;
  const size_t head_floats = kBlockTokens * head_dim;
  const size_t first = cache.length();
  const size_t block_count = first / kBlockTokens + 1;
  const size_t positions = block_count * kBlockTokens;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));

  PackedMatrix keys(head_dim, kBlockTokens);
  PackedMatrix values(kBlockTokens, head_dim);
  std::vector<float> scores(count * positions);
  std::fill(out.begin(), out.end(), 0.0f);
  for (size_t head = 0; head < config_.heads; ++head) {
    const size_t key_offset = layer * config_.layer_floats() + head * head_floats;
    const size_t value_offset = key_offset + config_.heads * head_floats;

    std::fill(scores.begin(), scores.end(), 0.0f);
    for (size_t b = 0; b < block_count; ++b) {
      keys.PackTransposed(cache.block(b).subspan(key_offset, head_floats));
      MultiplyAdd({query_key_value.data() + head * head_dim, 3 * width}, count, keys,
                  {scores.data() + b * kBlockTokens, positions});
    }
    std::vector<float> inverse_sum(count);
    for (size_t i = 0; i < count; ++i) {
      inverse_sum[i] =
          Softmax(std::span(scores).subspan(i * positions, positions), first + i + 1, scale);
    }
    for (size_t b = 0; b < block_count; ++b) {
      values.Pack(cache.block(b).subspan(value_offset, head_floats));
      MultiplyAdd({scores.data() + b * kBlockTokens, positions}, count, values,
                  {out.data() + head * head_dim, width});
    }
    for (size_t i = 0; i < count; ++i) {
      for (size_t d = 0; d < head_dim; ++d) out[i * width + head * head_dim + d] *= inverse_sum[i];
    }
  }
}

}  // namespace infercache::demo
