#include "server/store/block_allocator.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace infercache::store {
namespace {

// How far one list is followed while the caller holds a lock.
constexpr int kLongLook = 1024;

}  // namespace

BlockAllocator::BlockAllocator() : nodes_(1) {}

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
  InsertFree(NewNode({start, size, kNoBlock, kNoBlock, 0, 0}));
}

std::optional<BlockAllocator::BlockId> BlockAllocator::Allocate(uint32_t granules, uint32_t owner) {
  const BlockId block = FindFit(granules);
  if (block == kNoBlock) return std::nullopt;
  RemoveFree(block);
  const uint32_t rest = nodes_[block].size - granules;
  if (rest > 0) {
    const BlockId next = nodes_[block].next;
    const BlockId tail = NewNode({nodes_[block].start + granules, rest, block, next, 0, 0});
    if (next != kNoBlock) nodes_[next].previous = tail;
    nodes_[block].next = tail;
    nodes_[block].size = granules;
    InsertFree(tail);
  }
  nodes_[block].link_a = owner;
  nodes_[block].link_b = kUsed;
  free_ -= granules;
  return block;
}

void BlockAllocator::Free(BlockId block) {
  free_ += nodes_[block].size;
  nodes_[block].link_b = kNoBlock;
  if (const BlockId next = nodes_[block].next; next != kNoBlock && !used(next)) {
    RemoveFree(next);
    MergeRight(block, next);
  }
  if (const BlockId previous = nodes_[block].previous; previous != kNoBlock && !used(previous)) {
    RemoveFree(previous);
    MergeRight(previous, block);
    block = previous;
  }
  InsertFree(block);
}

BlockAllocator::Block BlockAllocator::Get(BlockId block) const {
  const Node& node = nodes_[block];
  return {node.start, node.size, used(block) ? node.link_a : kFree};
}

uint32_t BlockAllocator::largest_free() const {
  if (class_bitmap_ == 0) return 0;
  const int top = std::bit_width(class_bitmap_) - 1;
  const int sub = std::bit_width(sub_bitmap_[top]) - 1;
  uint32_t largest = 0;
  BlockId b = bins_[top * kSubClasses + sub];
  for (int i = 0; i < kLongLook && b != kNoBlock; ++i, b = nodes_[b].link_b) {
    largest = std::max(largest, nodes_[b].size);
  }
  return largest;
}

BlockAllocator::BlockId BlockAllocator::NewNode(const Node& node) {
  if (unused_nodes_ == kNoBlock) {
    nodes_.push_back(node);
    return static_cast<BlockId>(nodes_.size() - 1);
  }
  const BlockId block = unused_nodes_;
  unused_nodes_ = nodes_[block].link_a;
  nodes_[block] = node;
  return block;
}

void BlockAllocator::DropNode(BlockId block) {
  nodes_[block] = {0, 0, kNoBlock, kNoBlock, unused_nodes_, kNoBlock};
  unused_nodes_ = block;
}

void BlockAllocator::InsertFree(BlockId block) {
  const int bin = BinOf(nodes_[block].size);
  const BlockId head = bins_[bin];
  nodes_[block].link_a = kNoBlock;
  nodes_[block].link_b = head;
  if (head != kNoBlock) nodes_[head].link_a = block;
  bins_[bin] = block;
  sub_bitmap_[bin / kSubClasses] |= 1u << (bin % kSubClasses);
  class_bitmap_ |= 1u << (bin / kSubClasses);
}

void BlockAllocator::RemoveFree(BlockId block) {
  const Node& node = nodes_[block];
  const int bin = BinOf(node.size);
  if (node.link_b != kNoBlock) nodes_[node.link_b].link_a = node.link_a;
  if (node.link_a != kNoBlock) {
    nodes_[node.link_a].link_b = node.link_b;
    return;
  }
  bins_[bin] = node.link_b;
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
  for (int i = 0; i < kLookAt && block != kNoBlock; ++i, block = nodes_[block].link_b) {
    if (nodes_[block].size >= granules) return block;
  }
  const BlockId above = FirstInBinsFrom(bin + 1);
  if (above != kNoBlock) return above;
  // More of the class, rather than fail at once; the caller can make room elsewhere.
  for (int i = 0; i < kLongLook && block != kNoBlock; ++i, block = nodes_[block].link_b) {
    if (nodes_[block].size >= granules) return block;
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

void BlockAllocator::MergeRight(BlockId left, BlockId right) {
  const BlockId next = nodes_[right].next;
  nodes_[left].size += nodes_[right].size;
  nodes_[left].next = next;
  if (next != kNoBlock) nodes_[next].previous = left;
  DropNode(right);
}

bool BlockAllocator::CheckInvariants() const {
  uint64_t listed_free = 0;
  std::vector<bool> in_bin(nodes_.size(), false);
  for (int bin = 0; bin < kBins; ++bin) {
    const bool bit = (sub_bitmap_[bin / kSubClasses] >> (bin % kSubClasses)) & 1;
    if (bit != (bins_[bin] != kNoBlock)) return false;
    BlockId before = kNoBlock;
    for (BlockId b = bins_[bin]; b != kNoBlock; before = b, b = nodes_[b].link_b) {
      if (used(b) || in_bin[b] || BinOf(nodes_[b].size) != bin || nodes_[b].link_a != before)
        return false;
      in_bin[b] = true;
      listed_free += nodes_[b].size;
    }
  }
  for (int cls = 0; cls < kClasses; ++cls) {
    if (((class_bitmap_ >> cls) & 1) != (sub_bitmap_[cls] != 0)) return false;
  }
  uint64_t total = 0;
  for (BlockId b = 1; b < nodes_.size(); ++b) {
    const Node& node = nodes_[b];
    if (node.size == 0) continue;  // names no block
    total += node.size;
    if (used(b) == in_bin[b]) return false;
    if (node.next == kNoBlock) continue;
    const Node& next = nodes_[node.next];
    if (next.previous != b || next.start != node.start + node.size) return false;
    if (!used(b) && !used(node.next)) return false;  // neighbours that should have merged
  }
  return listed_free == free_ && total == total_;
}

}  // namespace infercache::store
