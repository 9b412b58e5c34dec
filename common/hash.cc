#include "common/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace infercache {

Hash128 HashBytes(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return {h.low64, h.high64};
}

Hash128 HashKey(uint64_t seed, const Hash128& fingerprint, std::string_view key) {
  // Two passes instead of a concatenation: the key is hashed under a seed that the fingerprint's
  // low half determines, and both halves are mixed with the other one.
  const XXH128_hash_t h = XXH3_128bits_withSeed(key.data(), key.size(), seed ^ fingerprint.lo);
  const uint64_t mixed[4] = {h.low64, h.high64, fingerprint.lo, fingerprint.hi};
  const XXH128_hash_t m = XXH3_128bits_withSeed(mixed, sizeof mixed, seed);
  return {m.low64, m.high64};
}

}  // namespace infercache
