// Hands out blocks of an address range it never touches: what it knows stands in its own memory, so
// the range may be shared memory that clients write, or GPU memory that the CPU cannot read.
//
// Good fit over size classes (two levels: power of two, 16 steps each), constant time but for a
// short look through one class; neighbours of a freed block are merged at once. Addresses and sizes
// are in granules. A block belongs to an owner (the record whose bytes it holds), so that the
// block's neighbours can be asked who they are.
//
// Not thread-safe.

#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>

namespace infercache::store {

class BlockAllocator {
 public:
  // Names a block from Allocate until Free. 0 is no block.
  using BlockId = uint32_t;
  static constexpr BlockId kNoBlock = 0;
  static constexpr uint32_t kFree = 0;  // owner of a free block

  struct Block {
    uint32_t start = 0;  // in granules
    uint32_t size = 0;   // in granules
    uint32_t owner = kFree;
  };

  BlockAllocator();

  // Adds [start, start + size) to the range. Regions never merge with each other: no block spans
  // two. REQUIRES: disjoint from what is there; size > 0.
  void AddRegion(uint32_t start, uint32_t size);

  // nullopt if no free block is large enough. REQUIRES: granules > 0, owner != kFree.
  std::optional<BlockId> Allocate(uint32_t granules, uint32_t owner);
  // REQUIRES: `block` is allocated.
  void Free(BlockId block);

  Block Get(BlockId block) const;
  // The block before or after it in its region, free or not; kNoBlock at the region's end.
  BlockId Previous(BlockId block) const { return nodes_[block].previous; }
  BlockId Next(BlockId block) const { return nodes_[block].next; }

  uint64_t total_granules() const { return total_; }
  uint64_t free_granules() const { return free_; }
  // At least; exact unless very many free blocks have nearly this size.
  uint32_t largest_free() const;
  // What the allocator itself occupies.
  uint64_t metadata_bytes() const { return nodes_.size() * sizeof(Node); }

  // Whether every list, bitmap and sum agrees with the others. For tests: walks everything.
  bool CheckInvariants() const;

 private:
  static constexpr int kSubClassBits = 4;
  static constexpr int kSubClasses = 1 << kSubClassBits;
  static constexpr int kClasses = 32 - kSubClassBits + 1;
  static constexpr int kBins = kClasses * kSubClasses;

  // 24 bytes. Free blocks are in their bin's list through (link_a, link_b); used ones keep the
  // owner in link_a. A node that names no block is in the list of unused nodes through link_a.
  struct Node {
    uint32_t start;
    uint32_t size;
    BlockId previous;  // in address order
    BlockId next;
    uint32_t link_a;  // free: previous in bin. used: owner
    uint32_t link_b;  // free: next in bin.     used: kUsed
  };
  static constexpr uint32_t kUsed = std::numeric_limits<uint32_t>::max();

  static int BinOf(uint32_t size);
  bool used(BlockId block) const { return nodes_[block].link_b == kUsed; }
  BlockId NewNode(const Node& node);
  void DropNode(BlockId block);
  void InsertFree(BlockId block);
  void RemoveFree(BlockId block);
  BlockId FindFit(uint32_t granules) const;
  BlockId FirstInBinsFrom(int bin) const;
  // Takes `right` into its left neighbour `left`; neither is in a bin.
  void MergeRight(BlockId left, BlockId right);

  std::deque<Node> nodes_;  // [0] is unused: 0 means none. A deque grows without copying.
  BlockId unused_nodes_ = kNoBlock;
  std::array<BlockId, kBins> bins_{};
  std::array<uint32_t, kClasses> sub_bitmap_{};  // bit s: bins_[class * kSubClasses + s] not empty
  uint32_t class_bitmap_ = 0;
  uint64_t total_ = 0;
  uint64_t free_ = 0;
};

}  // namespace infercache::store
