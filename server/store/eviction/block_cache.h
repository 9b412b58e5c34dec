// A cache of names only: a policy, and which of the blocks 1..n are there. For measuring policies:
// simulations, tests and benchmarks. Not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/store/eviction/policy.h"

namespace infercache::store {

class BlockCache {
 public:
  // REQUIRES: CheckPolicyName(policy), capacity > 0.
  BlockCache(std::string_view policy, size_t blocks, size_t capacity)
      : nodes_(blocks + 1), policy_(*MakePolicy(policy, nodes_.data())), capacity_(capacity) {}

  bool Has(uint32_t block) const { return nodes_[block].list != 0; }
  size_t size() const { return size_; }
  Policy& policy() { return *policy_; }
  const PolicyNode& node(uint32_t block) const { return nodes_[block]; }

  // A use; the block comes if it is not there, and others go, maybe itself, while there are too
  // many. Of `use`, `idle_ms`, `repeat` and `hash` are filled in.
  void Touch(uint32_t block, Use use, uint8_t class_id = 0) {
    PolicyNode& node = nodes_[block];
    if (Has(block)) {
      CountUse(node, &use);
      return policy_->Touch(block, use);
    }
    if (use.anchor != 0 && !Has(use.anchor)) use.anchor = 0;
    node = {.used_ms = static_cast<uint32_t>(use.now_ms), .class_id = class_id};
    use.hash = HashOf(block);
    policy_->Insert(block, use);
    ++size_;
    while (size_ > capacity_) {
      Drop(policy_->Victim(use.now_ms, [](uint32_t) { return true; }), use.now_ms, true);
    }
  }
  void Drop(uint32_t block, uint64_t now_ms, bool evicted) {
    policy_->Remove(block, {.now_ms = now_ms,
                            .hash = HashOf(block),
                            .idle_ms = static_cast<uint32_t>(now_ms) - nodes_[block].used_ms,
                            .evicted = evicted});
    --size_;
  }

 private:
  static uint64_t HashOf(uint32_t block) {
    uint64_t x = block * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
  }

  std::vector<PolicyNode> nodes_;
  std::unique_ptr<Policy> policy_;
  const size_t capacity_;
  size_t size_ = 0;
};

}  // namespace infercache::store
