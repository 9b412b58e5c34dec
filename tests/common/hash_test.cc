#include "common/hash.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <set>
#include <string>
#include <utility>

#include "common/fingerprint.h"

namespace infercache {
namespace {

const Hash128 kFingerprintA = Fingerprint::Make({{"model", "a"}})->hash();
const Hash128 kFingerprintB = Fingerprint::Make({{"model", "b"}})->hash();

// Of 128 bits, about half differ between unrelated hashes; fewer than 30 or more than 98 would be a
// 1-in-10^8 accident.
void ExpectUnrelated(const Hash128& a, const Hash128& b) {
  const int differing = std::popcount(a.lo ^ b.lo) + std::popcount(a.hi ^ b.hi);
  EXPECT_GE(differing, 30);
  EXPECT_LE(differing, 98);
}

TEST(HashKey, IsAFunctionOfItsArguments) {
  const std::string key = "block:17";
  EXPECT_EQ(HashKey(7, kFingerprintA, key), HashKey(7, kFingerprintA, std::string(key)));
}

TEST(HashKey, FingerprintsSeparate) {
  ExpectUnrelated(HashKey(7, kFingerprintA, "k"), HashKey(7, kFingerprintB, "k"));
  ExpectUnrelated(HashKey(7, kFingerprintA, ""), HashKey(7, kFingerprintB, ""));
}

TEST(HashKey, BothHalvesOfTheFingerprintSeparate) {
  const Hash128 base = kFingerprintA;
  const Hash128 other_low = {base.lo ^ 1, base.hi};
  const Hash128 other_high = {base.lo, base.hi ^ 1};
  const Hash128 swapped = {base.hi, base.lo};
  const Hash128 h = HashKey(7, base, "key");
  ExpectUnrelated(h, HashKey(7, other_low, "key"));
  ExpectUnrelated(h, HashKey(7, other_high, "key"));
  ExpectUnrelated(h, HashKey(7, swapped, "key"));
}

TEST(HashKey, SeedsSeparate) {
  ExpectUnrelated(HashKey(7, kFingerprintA, "key"), HashKey(8, kFingerprintA, "key"));
  ExpectUnrelated(HashKey(0, kFingerprintA, "key"), HashKey(~uint64_t{0}, kFingerprintA, "key"));
}

// A seed that differs as two fingerprints do must not make their objects meet.
TEST(HashKey, SeedAndFingerprintDoNotCancel) {
  const uint64_t seed = 7;
  const uint64_t shifted_seed = seed ^ kFingerprintA.lo ^ kFingerprintB.lo;
  EXPECT_NE(HashKey(seed, kFingerprintA, "key"), HashKey(shifted_seed, kFingerprintB, "key"));
}

TEST(HashKey, EveryByteAndTheLengthCount) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  std::string key;
  for (size_t length = 0; length <= 1024; ++length) {
    const Hash128 h = HashKey(7, kFingerprintA, key);
    EXPECT_TRUE(seen.emplace(h.lo, h.hi).second) << length << " zero bytes";
    key.push_back('\0');
  }
  for (size_t at = 0; at < key.size(); ++at) {
    key[at] = '\1';
    const Hash128 h = HashKey(7, kFingerprintA, key);
    EXPECT_TRUE(seen.emplace(h.lo, h.hi).second) << "byte " << at;
    key[at] = '\0';
  }
}

// The low half picks a shard and a bucket: neighbouring keys must spread.
TEST(HashKey, SpreadsSequentialKeys) {
  constexpr int kKeys = 64'000;
  constexpr int kBins = 64;
  int low[kBins] = {};
  int high[kBins] = {};
  for (int i = 0; i < kKeys; ++i) {
    const Hash128 h = HashKey(7, kFingerprintA, "block:" + std::to_string(i));
    ++low[h.lo % kBins];
    ++high[h.hi >> 58];
  }
  for (int bin = 0; bin < kBins; ++bin) {  // 1000 expected, standard deviation 31
    EXPECT_NEAR(low[bin], kKeys / kBins, 220);
    EXPECT_NEAR(high[bin], kKeys / kBins, 220);
  }
}

TEST(HashBytes, IsNotTheKeyHash) {
  EXPECT_EQ(HashBytes("abc"), HashBytes(std::string("abc")));
  EXPECT_NE(HashBytes("abc"), HashBytes("abd"));
  EXPECT_NE(HashBytes(""), HashBytes(std::string_view("\0", 1)));
}

RC_GTEST_PROP(HashKey, DifferentKeysHaveDifferentHashes,
              (const std::string& a, const std::string& b)) {
  RC_PRE(a != b);
  RC_ASSERT(!(HashKey(1, kFingerprintA, a) == HashKey(1, kFingerprintA, b)));
}

}  // namespace
}  // namespace infercache
