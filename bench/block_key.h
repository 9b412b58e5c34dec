// Keys as workers name their blocks: 32 bytes, the hex form of a 128-bit hash.

#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace infercache::bench {

inline std::string BlockKey(uint64_t i) {
  char key[33];
  std::snprintf(key, sizeof key, "%016llx%016llx",
                static_cast<unsigned long long>(i * 0x9e3779b97f4a7c15u),
                static_cast<unsigned long long>(i));
  return key;
}

}  // namespace infercache::bench
