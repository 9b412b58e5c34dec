// The 128-bit hashes of the project. XXH3-128: fast and well mixed, not cryptographic; it separates
// objects, it does not defend a namespace against its own writers (who may store anything anyway).

#pragma once

#include <cstdint>
#include <string_view>

namespace infercache {

struct Hash128 {
  uint64_t lo = 0;
  uint64_t hi = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

// Of the bytes alone.
Hash128 HashBytes(std::string_view bytes);

// Of a key under a fingerprint, seeded per namespace: what the index is searched by. Equal keys
// with different fingerprints get unrelated hashes, which is what keeps models apart.
Hash128 HashKey(uint64_t seed, const Hash128& fingerprint, std::string_view key);

}  // namespace infercache
