#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "client/examples/prefill_demo/block_keys.h"
#include "client/examples/prefill_demo/matmul.h"
#include "client/examples/prefill_demo/model.h"

namespace infercache::demo {
namespace {

ModelConfig SmallModel() {
  ModelConfig config;
  config.layers = 2;
  config.heads = 2;
  config.head_dim = 16;
  return config;
}

std::vector<Token> Text(size_t length) {
  std::vector<Token> tokens(length);
  for (size_t i = 0; i < length; ++i) tokens[i] = static_cast<Token>(i * i * 7 + i / 3);
  return tokens;
}

// Extends the cache to all of `tokens`, at most `step` at a time; returns the last logits.
std::vector<float> Prefill(const Model& model, std::span<const Token> tokens, KvCache& cache,
                           size_t step = kBlockTokens) {
  std::vector<float> logits;
  while (cache.length() < tokens.size()) {
    const size_t first = cache.length();
    const size_t left_in_block = kBlockTokens - first % kBlockTokens;
    const size_t count = std::min(std::min(step, left_in_block), tokens.size() - first);
    logits = model.Extend(tokens.subspan(first, count), cache);
  }
  return logits;
}

std::vector<float> Prefill(const Model& model, std::span<const Token> tokens) {
  KvCache cache(model.config());
  return Prefill(model, tokens, cache);
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST(MultiplyAdd, SumsInTheStatedOrderForEveryRowCount) {
  constexpr size_t kDepth = 37;
  constexpr size_t kColumns = 24;
  std::vector<float> b(kDepth * kColumns);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 101) / 7.0f - 5.0f;
  PackedMatrix packed(kDepth, kColumns);
  packed.Pack(b);
  for (size_t rows = 1; rows <= 9; ++rows) {
    std::vector<float> a(rows * kDepth);
    for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 89) / 3.0f - 11.0f;
    std::vector<float> c(rows * kColumns, 0.5f);
    std::vector<float> expected = c;
    MultiplyAdd({a.data(), kDepth}, rows, packed, {c.data(), kColumns});
    for (size_t r = 0; r < rows; ++r) {
      for (size_t j = 0; j < kColumns; ++j) {
        for (size_t k = 0; k < kDepth; ++k) {
          expected[r * kColumns + j] += a[r * kDepth + k] * b[k * kColumns + j];
        }
      }
    }
    EXPECT_TRUE(SameBits(c, expected)) << rows << " rows";
  }
}

TEST(PackedMatrix, PacksATransposeAsItsOriginal) {
  std::vector<float> rows(3 * 16);
  std::vector<float> transposed(rows.size());
  for (size_t k = 0; k < 3; ++k) {
    for (size_t j = 0; j < 16; ++j) {
      rows[k * 16 + j] = transposed[j * 3 + k] = static_cast<float>(100 * k + j);
    }
  }
  PackedMatrix from_rows(3, 16);
  PackedMatrix from_transpose(3, 16);
  from_rows.Pack(rows);
  from_transpose.PackTransposed(transposed);
  EXPECT_TRUE(SameBits({from_rows.panel(0), rows.size()}, {from_transpose.panel(0), rows.size()}));
}

TEST(Model, SameSeedSameLogits) {
  const std::vector<Token> text = Text(40);
  ModelConfig other = SmallModel();
  other.seed += 1;
  EXPECT_TRUE(SameBits(Prefill(Model(SmallModel()), text), Prefill(Model(SmallModel()), text)));
  EXPECT_FALSE(SameBits(Prefill(Model(SmallModel()), text), Prefill(Model(other), text)));
}

TEST(Model, LogitsDoNotDependOnHowThePromptWasSplit) {
  const Model model(SmallModel());
  const std::vector<Token> text = Text(600);
  const std::vector<float> whole = Prefill(model, text);
  for (const size_t step : {1, 3, 4, 100, 255}) {
    KvCache cache(model.config());
    EXPECT_TRUE(SameBits(whole, Prefill(model, text, cache, step))) << "step " << step;
  }
}

TEST(Model, CopiedBlocksStandInForComputedOnes) {
  const Model model(SmallModel());
  const std::vector<Token> text = Text(2 * kBlockTokens + 50);
  KvCache computed(model.config());
  const std::vector<float> expected = Prefill(model, text, computed);
  for (size_t reused = 0; reused <= 2; ++reused) {
    KvCache cache(model.config());
    for (size_t b = 0; b < reused; ++b) {
      std::ranges::copy(computed.block(b), cache.block(b).begin());
    }
    cache.SetLength(reused * kBlockTokens);
    EXPECT_TRUE(SameBits(expected, Prefill(model, text, cache))) << reused << " blocks reused";
    EXPECT_TRUE(SameBits(computed.block(2), cache.block(2))) << reused << " blocks reused";
  }
}

TEST(Model, SpoiltBlockChangesTheLogits) {
  const Model model(SmallModel());
  const std::vector<Token> text = Text(kBlockTokens + 10);
  KvCache cache(model.config());
  const std::vector<float> expected = Prefill(model, text, cache);
  KvCache spoilt(model.config());
  std::ranges::copy(cache.block(0), spoilt.block(0).begin());
  spoilt.block(0)[5] += 1.0f;
  spoilt.SetLength(kBlockTokens);
  EXPECT_FALSE(SameBits(expected, Prefill(model, text, spoilt)));
}

TEST(Model, IsCausal) {
  const Model model(SmallModel());
  std::vector<Token> text = Text(100);
  KvCache before(model.config());
  Prefill(model, text, before);
  text.back() ^= 1;
  KvCache after(model.config());
  Prefill(model, text, after);
  // Of the last layer's keys only the last position, which saw the changed token, is different.
  const ModelConfig& config = model.config();
  const size_t offset = (config.layers - 1) * config.layer_floats();
  const auto keys = [&](KvCache& cache, size_t first, size_t count) {
    return cache.block(0).subspan(offset + first * config.head_dim, count * config.head_dim);
  };
  EXPECT_TRUE(SameBits(keys(before, 0, 99), keys(after, 0, 99)));
  EXPECT_FALSE(SameBits(keys(before, 99, 1), keys(after, 99, 1)));
}

TEST(Model, SeesTheWholePromptAndItsOrder) {
  const Model model(SmallModel());
  const std::vector<Token> text = Text(600);
  const std::vector<float> expected = Prefill(model, text);
  std::vector<Token> first_changed = text;
  first_changed[0] ^= 1;
  std::vector<Token> two_swapped = text;
  std::swap(two_swapped[300], two_swapped[301]);
  ASSERT_NE(text[300], text[301]);
  EXPECT_FALSE(SameBits(expected, Prefill(model, first_changed)));
  EXPECT_FALSE(SameBits(expected, Prefill(model, two_swapped)));
}

TEST(BlockKeys, NamesOnlyFullBlocks) {
  EXPECT_TRUE(BlockKeys({}).empty());
  EXPECT_TRUE(BlockKeys(Text(kBlockTokens - 1)).empty());
  EXPECT_EQ(BlockKeys(Text(kBlockTokens)).size(), 1u);
  EXPECT_EQ(BlockKeys(Text(3 * kBlockTokens - 1)).size(), 2u);
}

TEST(BlockKeys, DependOnEverythingBefore) {
  const std::vector<Token> text = Text(4 * kBlockTokens);
  std::vector<Token> changed = text;
  changed[kBlockTokens + 7] ^= 1;
  const std::vector<std::string> keys = BlockKeys(text);
  const std::vector<std::string> other = BlockKeys(changed);
  EXPECT_EQ(keys[0], other[0]);
  for (size_t i = 1; i < 4; ++i) EXPECT_NE(keys[i], other[i]) << "block " << i;
}

TEST(BlockKeys, DifferForEqualBlocksAtDifferentPlaces) {
  const std::vector<std::string> keys = BlockKeys(std::vector<Token>(3 * kBlockTokens, 'a'));
  EXPECT_NE(keys[0], keys[1]);
  EXPECT_NE(keys[1], keys[2]);
}

}  // namespace
}  // namespace infercache::demo
