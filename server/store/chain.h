// How the objects of one batch hang together, by the hashes of their keys and of their parents'
// keys.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/hash.h"

namespace infercache::store {

struct ChainLink {
  Hash128 key;
  Hash128 parent;  // zero = none
};

// For each link, the number of the one in the batch where its piece of a chain begins. A parent
// counts only before its children.
inline std::vector<size_t> ChainRoots(std::span<const ChainLink> links) {
  std::vector<size_t> roots(links.size());
  std::unordered_map<uint64_t, size_t> numbers;
  numbers.reserve(links.size());
  for (size_t i = 0; i < links.size(); ++i) {
    roots[i] = i;
    if (links[i].parent != Hash128()) {
      const auto parent = numbers.find(links[i].parent.lo);
      if (parent != numbers.end()) roots[i] = roots[parent->second];
    }
    numbers.emplace(links[i].key.lo, i);
  }
  return roots;
}

}  // namespace infercache::store
