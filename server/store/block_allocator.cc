#include "server/store/block_allocator.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "common/status_macros.h"

namespace infercache::store {
namespace {

// How far one list is followed while the caller holds a lock.
constexpr int kLongLook = 1024;

}  // namespace

absl::StatusOr<BlockAllocator> BlockAllocator::Create(uint32_t max_owner) {
  ASSIGN_OR_RETURN(SparseArray<Node> used,
                   SparseArray<Node>::Create(size_t{max_owner} + 1, "blocks"));
  return BlockAllocator(std::move(used));
}

// Sizes below 16 have a class each; above, the four bits under the leading one choose the
// sub-class.
int BlockAllocator::BinOf(uint32_t size) {
  if (size < kSubClasses) return static_cast<int>(size);
  const int shift = std::bit_width(size) - 1 - kSubClassBits;
  const int sub_class = static_cast<int>(size >> shift) - kSubClasses;
  return (shift + 1) * kSubClasses + sub_class;
}

void BlockAllocator::AddRegion(uint32_t start, uint32_t size) {
  total_ += size;
  free_ += size;
  const BlockId block = NewFree();
  FreeNodeOf(block) = {{.start = start, .size = size}};
  InsertFree(block);
}

bool BlockAllocator::Allocate(uint32_t owner, uint32_t granules) {
  const BlockId block = FindFit(granules);
  if (block == kNoBlock) return false;
  RemoveFree(block);
  highest_owner_ = std::max(highest_owner_, owner);
  FreeNode& hole = FreeNodeOf(block);
  Node& node = used_[owner];
  node = hole;
  node.size = granules;
  if (hole.size > granules) {
    hole.start += granules;
    hole.size -= granules;
    hole.previous = owner;
    node.next = block;
    InsertFree(block);
  } else {
    DropFree(block);
  }
  LinkNeighbours(owner);
  free_ -= granules;
  return true;
}

void BlockAllocator::Free(uint32_t owner) {
  Node merged = std::exchange(used_[owner], {});
  free_ += merged.size;
  BlockId block = kNoBlock;
  if (IsFree(merged.next)) {
    block = merged.next;
    RemoveFree(block);
    merged.size += NodeOf(block).size;
    merged.next = NodeOf(block).next;
  }
  if (IsFree(merged.previous)) {
    if (block != kNoBlock) DropFree(block);
    block = merged.previous;
    RemoveFree(block);
    merged.start = NodeOf(block).start;
    merged.size += NodeOf(block).size;
    merged.previous = NodeOf(block).previous;
  }
  if (block == kNoBlock) block = NewFree();
  FreeNodeOf(block) = {merged};
  LinkNeighbours(block);
  InsertFree(block);
}

uint32_t BlockAllocator::largest_free() const {
  if (class_bitmap_ == 0) return 0;
  const int top = std::bit_width(class_bitmap_) - 1;
  const int sub = std::bit_width(sub_bitmap_[top]) - 1;
  uint32_t largest = 0;
  BlockId b = bins_[top * kSubClasses + sub];
  for (int i = 0; i < kLongLook && b != kNoBlock; ++i, b = FreeNodeOf(b).next_in_bin) {
    largest = std::max(largest, NodeOf(b).size);
  }
  return largest;
}

BlockAllocator::BlockId BlockAllocator::NewFree() {
  if (unused_free_ == kNoBlock) {
    free_nodes_.emplace_back();
    return kMaxOwner + static_cast<BlockId>(free_nodes_.size());
  }
  return std::exchange(unused_free_, FreeNodeOf(unused_free_).next_in_bin);
}

void BlockAllocator::DropFree(BlockId block) {
  FreeNodeOf(block) = {};
  FreeNodeOf(block).next_in_bin = std::exchange(unused_free_, block);
}

void BlockAllocator::LinkNeighbours(BlockId block) {
  const Node& node = NodeOf(block);
  if (node.previous != kNoBlock) NodeOf(node.previous).next = block;
  if (node.next != kNoBlock) NodeOf(node.next).previous = block;
}

void BlockAllocator::InsertFree(BlockId block) {
  FreeNode& node = FreeNodeOf(block);
  const int bin = BinOf(node.size);
  node.previous_in_bin = kNoBlock;
  node.next_in_bin = std::exchange(bins_[bin], block);
  if (node.next_in_bin != kNoBlock) FreeNodeOf(node.next_in_bin).previous_in_bin = block;
  sub_bitmap_[bin / kSubClasses] |= 1u << (bin % kSubClasses);
  class_bitmap_ |= 1u << (bin / kSubClasses);
}

void BlockAllocator::RemoveFree(BlockId block) {
  const FreeNode& node = FreeNodeOf(block);
  const int bin = BinOf(node.size);
  if (node.next_in_bin != kNoBlock) {
    FreeNodeOf(node.next_in_bin).previous_in_bin = node.previous_in_bin;
  }
  if (node.previous_in_bin != kNoBlock) {
    FreeNodeOf(node.previous_in_bin).next_in_bin = node.next_in_bin;
    return;
  }
  bins_[bin] = node.next_in_bin;
  if (bins_[bin] != kNoBlock) return;
  sub_bitmap_[bin / kSubClasses] &= ~(1u << (bin % kSubClasses));
  if (sub_bitmap_[bin / kSubClasses] == 0) class_bitmap_ &= ~(1u << (bin / kSubClasses));
}

BlockAllocator::BlockId BlockAllocator::FindFit(uint32_t granules) const {
  // The request's own class may hold blocks smaller than it: look at a few, which finds the exact
  // fits that equal-sized KV blocks leave. Every block of a higher class is large enough.
  constexpr int kLookAt = 16;
  const int bin = BinOf(granules);
  BlockId block = bins_[bin];
  for (int i = 0; i < kLookAt && block != kNoBlock; ++i, block = FreeNodeOf(block).next_in_bin) {
    if (NodeOf(block).size >= granules) return block;
  }
  const BlockId above = FirstInBinsFrom(bin + 1);
  if (above != kNoBlock) return above;
  // More of the class, rather than fail at once; the caller can make room elsewhere.
  for (int i = 0; i < kLongLook && block != kNoBlock; ++i, block = FreeNodeOf(block).next_in_bin) {
    if (NodeOf(block).size >= granules) return block;
  }
  return kNoBlock;
}

BlockAllocator::BlockId BlockAllocator::FirstInBinsFrom(int bin) const {
  if (bin >= kBins) return kNoBlock;
  const int cls = bin / kSubClasses;
  const uint32_t subs = sub_bitmap_[cls] & (~0u << (bin % kSubClasses));
  if (subs != 0) return bins_[cls * kSubClasses + std::countr_zero(subs)];
  if (cls + 1 >= kClasses) return kNoBlock;
  const uint32_t classes = class_bitmap_ & (~0u << (cls + 1));
  if (classes == 0) return kNoBlock;
  const int next = std::countr_zero(classes);
  return bins_[next * kSubClasses + std::countr_zero(sub_bitmap_[next])];
}

bool BlockAllocator::CheckInvariants() const {
  uint64_t listed_free = 0;
  std::vector<bool> in_bin(free_nodes_.size(), false);
  for (int bin = 0; bin < kBins; ++bin) {
    const bool bit = (sub_bitmap_[bin / kSubClasses] >> (bin % kSubClasses)) & 1;
    if (bit != (bins_[bin] != kNoBlock)) return false;
    BlockId before = kNoBlock;
    for (BlockId b = bins_[bin]; b != kNoBlock; before = b, b = FreeNodeOf(b).next_in_bin) {
      const FreeNode& node = FreeNodeOf(b);
      if (in_bin[b - kMaxOwner - 1] || BinOf(node.size) != bin || node.previous_in_bin != before)
        return false;
      in_bin[b - kMaxOwner - 1] = true;
      listed_free += node.size;
    }
  }
  for (int cls = 0; cls < kClasses; ++cls) {
    if (((class_bitmap_ >> cls) & 1) != (sub_bitmap_[cls] != 0)) return false;
  }
  uint64_t total = 0;
  const auto check = [&](BlockId block) {
    const Node& node = NodeOf(block);
    total += node.size;
    if (IsFree(block) && !in_bin[block - kMaxOwner - 1]) return false;
    if (node.next == kNoBlock) return true;
    const Node& next = NodeOf(node.next);
    const bool should_have_merged = IsFree(block) && IsFree(node.next);
    return next.previous == block && next.start == node.start + node.size && !should_have_merged;
  };
  for (uint32_t owner = 1; owner <= highest_owner_; ++owner) {
    if (Has(owner) && !check(owner)) return false;
  }
  for (size_t i = 0; i < free_nodes_.size(); ++i) {
    if (free_nodes_[i].size != 0 && !check(kMaxOwner + 1 + static_cast<BlockId>(i))) return false;
  }
  return listed_free == free_ && total == total_;
}

}  // namespace infercache::store
