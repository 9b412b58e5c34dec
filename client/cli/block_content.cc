#include "client/cli/block_content.h"

#include <algorithm>
#include <cstring>

namespace infercache::cli {
namespace {

// splitmix64: word i of the block is the i-th output of a generator that starts at the mixed id, so
// neither blocks nor places in a block resemble each other.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

void FillBlock(uint64_t id, std::span<std::byte> bytes) {
  uint64_t state = Mix(id + kGolden);
  while (!bytes.empty()) {
    const uint64_t word = Mix(state += kGolden);
    const size_t size = std::min(bytes.size(), sizeof word);
    std::memcpy(bytes.data(), &word, size);
    bytes = bytes.subspan(size);
  }
}

uint64_t CountWrongBytes(uint64_t id, std::span<const std::byte> bytes) {
  uint64_t wrong = 0;
  uint64_t state = Mix(id + kGolden);
  while (!bytes.empty()) {
    const uint64_t word = Mix(state += kGolden);
    const size_t size = std::min(bytes.size(), sizeof word);
    uint64_t read = word;
    std::memcpy(&read, bytes.data(), size);
    for (uint64_t difference = read ^ word; difference != 0; difference >>= 8) {
      wrong += (difference & 0xff) != 0;
    }
    bytes = bytes.subspan(size);
  }
  return wrong;
}

}  // namespace infercache::cli
