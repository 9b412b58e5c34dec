// Hands out blocks of an address range it never touches: what it knows stands in its own memory, so
// the range may be shared memory that clients write, or GPU memory that the CPU cannot read.
//
// Good fit over size classes (two levels: power of two, 16 steps each), constant time but for a
// short look through one class; neighbours of a freed block are merged at once. Addresses and sizes
// are in granules. A block in use bears the number of its owner (the record whose bytes it holds),
// who has no other: whoever looks at a block's neighbours knows at once whose they are.
//
// Not thread-safe.

#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <utility>

#include "absl/status/statusor.h"
#include "server/store/sparse_array.h"

namespace infercache::store {

class BlockAllocator {
 public:
  // Of a block in use its owner's number; of a free one a number of the allocator's, until the next
  // Allocate or Free. 0 is no block.
  using BlockId = uint32_t;
  static constexpr BlockId kNoBlock = 0;
  static constexpr uint32_t kMaxOwner = std::numeric_limits<int32_t>::max();

  struct Block {
    uint32_t start = 0;  // in granules
    uint32_t size = 0;   // in granules
  };

  // For owners up to `max_owner`, at most kMaxOwner. RESOURCE_EXHAUSTED: no address space.
  static absl::StatusOr<BlockAllocator> Create(uint32_t max_owner);

  // Adds [start, start + size) to the range. Regions never merge with each other: no block spans
  // two. REQUIRES: disjoint from what is there; size > 0.
  void AddRegion(uint32_t start, uint32_t size);

  // False if no free block is large enough. REQUIRES: granules > 0; `owner`, from 1 to `max_owner`,
  // has none.
  bool Allocate(uint32_t owner, uint32_t granules);
  // REQUIRES: Has(owner).
  void Free(uint32_t owner);
  bool Has(uint32_t owner) const { return used_[owner].size != 0; }

  static bool IsFree(BlockId block) { return block > kMaxOwner; }
  Block Get(BlockId block) const { return {NodeOf(block).start, NodeOf(block).size}; }
  // The block before or after it in its region, free or not; kNoBlock at the region's end.
  BlockId Previous(BlockId block) const { return NodeOf(block).previous; }
  BlockId Next(BlockId block) const { return NodeOf(block).next; }

  uint64_t total_granules() const { return total_; }
  uint64_t free_granules() const { return free_; }
  // At least; exact unless very many free blocks have nearly this size.
  uint32_t largest_free() const;
  // The allocator's own memory, or more: pages of owners that never had a block may not be there.
  uint64_t metadata_bytes() const {
    return uint64_t{highest_owner_} * sizeof(Node) + free_nodes_.size() * sizeof(FreeNode);
  }

  // Whether every list, bitmap and sum agrees with the others. For tests: walks everything.
  bool CheckInvariants() const;

 private:
  static constexpr int kSubClassBits = 4;
  static constexpr int kSubClasses = 1 << kSubClassBits;
  static constexpr int kClasses = 32 - kSubClassBits + 1;
  static constexpr int kBins = kClasses * kSubClasses;

  struct Node {
    uint32_t start = 0;
    uint32_t size = 0;               // 0: names no block
    BlockId previous = 0, next = 0;  // in address order
  };
  // One that names no block is in the list of those through next_in_bin.
  struct FreeNode : Node {
    BlockId previous_in_bin = 0, next_in_bin = 0;
  };

  explicit BlockAllocator(SparseArray<Node> used) : used_(std::move(used)) {}

  static int BinOf(uint32_t size);
  FreeNode& FreeNodeOf(BlockId block) { return free_nodes_[block - kMaxOwner - 1]; }
  const FreeNode& FreeNodeOf(BlockId block) const { return free_nodes_[block - kMaxOwner - 1]; }
  const Node& NodeOf(BlockId block) const {
    return IsFree(block) ? static_cast<const Node&>(FreeNodeOf(block)) : used_[block];
  }
  // REQUIRES: `block` is not kNoBlock.
  Node& NodeOf(BlockId block) {
    return IsFree(block) ? static_cast<Node&>(FreeNodeOf(block)) : used_[block];
  }
  BlockId NewFree();
  void DropFree(BlockId block);
  // Its neighbours' links to `block`, which lies where its node says.
  void LinkNeighbours(BlockId block);
  void InsertFree(BlockId block);
  void RemoveFree(BlockId block);
  BlockId FindFit(uint32_t granules) const;
  BlockId FirstInBinsFrom(int bin) const;

  SparseArray<Node> used_;           // by owner
  uint32_t highest_owner_ = 0;       // that ever had a block
  std::deque<FreeNode> free_nodes_;  // grows without copying
  BlockId unused_free_ = kNoBlock;
  std::array<BlockId, kBins> bins_{};
  std::array<uint32_t, kClasses> sub_bitmap_{};  // bit s: bins_[class * kSubClasses + s] not empty
  uint32_t class_bitmap_ = 0;
  uint64_t total_ = 0;
  uint64_t free_ = 0;
};

}  // namespace infercache::store
