// Contents that can be checked: bytes that follow from a seed, so that a reader which gets a single
// byte of another object, or of another version of the same one, notices.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace infercache::testing {

// SplitMix64: a bijection whose outputs look random.
inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

inline void FillPattern(std::span<std::byte> bytes, uint64_t seed) {
  for (size_t at = 0; at < bytes.size(); at += 8) {
    const uint64_t word = Mix(seed ^ Mix(at));
    std::memcpy(bytes.data() + at, &word, bytes.size() - at < 8 ? bytes.size() - at : 8);
  }
}

inline bool MatchesPattern(std::span<const std::byte> bytes, uint64_t seed) {
  for (size_t at = 0; at < bytes.size(); at += 8) {
    const uint64_t word = Mix(seed ^ Mix(at));
    if (std::memcmp(bytes.data() + at, &word, bytes.size() - at < 8 ? bytes.size() - at : 8) != 0) {
      return false;
    }
  }
  return true;
}

// A self-describing object: 8 bytes of tag (whose it is), 8 of version, then a pattern that follows
// from both. For readers that do not know beforehand which version they will get.
inline constexpr size_t kTaggedHeaderBytes = 16;

// REQUIRES: bytes.size() >= kTaggedHeaderBytes.
inline void FillTagged(std::span<std::byte> bytes, uint64_t tag, uint64_t version) {
  std::memcpy(bytes.data(), &tag, 8);
  std::memcpy(bytes.data() + 8, &version, 8);
  FillPattern(bytes.subspan(kTaggedHeaderBytes), Mix(tag) ^ version);
}

// True if `bytes` are exactly some version of `tag`.
inline bool MatchesTagged(std::span<const std::byte> bytes, uint64_t tag) {
  if (bytes.size() < kTaggedHeaderBytes) return false;
  uint64_t stored_tag = 0;
  uint64_t version = 0;
  std::memcpy(&stored_tag, bytes.data(), 8);
  std::memcpy(&version, bytes.data() + 8, 8);
  return stored_tag == tag && MatchesPattern(bytes.subspan(kTaggedHeaderBytes), Mix(tag) ^ version);
}

}  // namespace infercache::testing
