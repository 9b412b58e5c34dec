#include "server/store/eviction/segments.h"

#include <bit>
#include <utility>

namespace infercache::store {

constexpr int kBins = ReuseTable::kBins;

Segments::Segments(PolicyNode* nodes)
    : nodes_(nodes),
      cells_(ReuseTable::kCells),
      rank_of_(ReuseTable::kCells),
      cell_at_(ReuseTable::kCells) {
  segments_.PushBack({});
  for (uint16_t i = 0; i < ReuseTable::kCells; ++i) rank_of_[i] = cell_at_[i] = i;
}

uint32_t Segments::Make(int reuse_class, const Turn& turn, uint32_t later) {
  uint32_t made = free_;
  if (made != 0) {
    free_ = segments_[made].newer;
  } else {
    made = static_cast<uint32_t>(segments_.size());
    segments_.PushBack({});
  }
  segments_[made] = {};
  Link(made, reuse_class, turn, later);
  return made;
}

void Segments::Link(uint32_t number, int reuse_class, const Turn& turn, uint32_t later) {
  Segment& segment = segments_[number];
  const uint64_t age_ms = advanced_ms_ > turn.start_ms ? advanced_ms_ - turn.start_ms : 0;
  segment.reuse_class = static_cast<uint8_t>(reuse_class);
  segment.bin = static_cast<uint8_t>(ReuseTable::BinOf(age_ms));
  segment.kept = true;
  segment.turn = turn;
  segment.later = later;
  segment.earlier = later != 0 ? segments_[later].earlier : latest_;
  (later != 0 ? segments_[later].earlier : latest_) = number;
  (segment.earlier != 0 ? segments_[segment.earlier].later : earliest_) = number;
  EnterCell(number, NewerInCell(number));
}

void Segments::Unlink(uint32_t number) {
  const Segment& segment = segments_[number];
  LeaveCell(number);
  (segment.later != 0 ? segments_[segment.later].earlier : latest_) = segment.earlier;
  (segment.earlier != 0 ? segments_[segment.earlier].later : earliest_) = segment.later;
  if (looked_up_ == number) looked_up_ = segment.later;
}

// Mostly there is none. What another policy had comes in the order of its last uses, between new
// requests: the next one is near the last one.
uint32_t Segments::EarliestAfter(uint64_t start_ms) {
  const auto is_after = [&](uint32_t segment) {
    return segments_[segment].turn.start_ms > start_ms;
  };
  if (latest_ == 0 || !is_after(latest_)) return 0;
  uint32_t later = looked_up_ != 0 ? looked_up_ : earliest_;
  while (!is_after(later)) later = segments_[later].later;
  while (segments_[later].earlier != 0 && is_after(segments_[later].earlier)) {
    later = segments_[later].earlier;
  }
  return looked_up_ = later;
}

uint32_t Segments::Open(int reuse_class, uint64_t start_ms) {
  return Make(reuse_class, {start_ms, ++turns_}, EarliestAfter(start_ms));
}

void Segments::Reopen(uint32_t segment, int reuse_class, uint64_t start_ms) {
  Unlink(segment);
  Link(segment, reuse_class, {start_ms, ++turns_}, EarliestAfter(start_ms));
}

uint32_t Segments::OpenBehind(int reuse_class, uint32_t anchor) {
  const Turn turn = segments_[anchor].turn;
  uint32_t later = anchor;
  while (true) {
    const uint32_t earlier = segments_[later].earlier;
    if (earlier == 0 || segments_[earlier].turn != turn) break;
    later = earlier;
  }
  return Make(reuse_class, turn, later);
}

// Thousands may lie between an old anchor and now. Where its class is a common one, another of its
// cell is near among all that came later; where it is a rare one, the cell has few.
uint32_t Segments::NewerInCell(uint32_t number) const {
  const Segment& segment = segments_[number];
  const int cell = CellOf(segment);
  uint32_t later = segment.later;
  uint32_t newer = 0, older = cells_[cell].newest;
  while (later != 0 && CellOf(segments_[later]) != cell) {
    if (older == 0 || segments_[older].turn < segment.turn) return newer;
    later = segments_[later].later;
    newer = std::exchange(older, segments_[older].older);
  }
  return later;
}

void Segments::EnterCell(uint32_t number, uint32_t newer) {
  Segment& segment = segments_[number];
  Cell& cell = cells_[CellOf(segment)];
  segment.newer = newer;
  segment.older = newer != 0 ? segments_[newer].older : cell.newest;
  (newer != 0 ? segments_[newer].older : cell.newest) = number;
  (segment.older != 0 ? segments_[segment.older].newer : cell.oldest) = number;
  used_bins_[segment.reuse_class] |= uint32_t{1} << segment.bin;
  used_classes_[segment.reuse_class / 64] |= uint64_t{1} << (segment.reuse_class % 64);
  CountInCell(segment, segment.size);
}

void Segments::LeaveCell(uint32_t number) {
  const Segment& segment = segments_[number];
  Cell& cell = cells_[CellOf(segment)];
  (segment.newer != 0 ? segments_[segment.newer].older : cell.newest) = segment.older;
  (segment.older != 0 ? segments_[segment.older].newer : cell.oldest) = segment.newer;
  if (cell.oldest == 0) {
    uint32_t& bins = used_bins_[segment.reuse_class];
    bins &= ~(uint32_t{1} << segment.bin);
    if (bins == 0)
      used_classes_[segment.reuse_class / 64] &= ~(uint64_t{1} << (segment.reuse_class % 64));
  }
  CountInCell(segment, -int64_t{segment.size});
}

void Segments::CountInCell(const Segment& segment, int64_t more) {
  const int cell = CellOf(segment);
  const uint32_t before = cells_[cell].records;
  const auto after = static_cast<uint32_t>(before + more);
  cells_[cell].records = after;
  if ((before == 0) == (after == 0)) return;
  const uint16_t rank = rank_of_[cell];
  filled_[rank / 64] ^= uint64_t{1} << (rank % 64);
}

void Segments::Close(uint32_t segment) {
  segments_[segment].kept = false;
  if (segments_[segment].size != 0) return;
  Unlink(segment);
  segments_[segment].newer = free_;
  free_ = segment;
}

void Segments::PushNearest(uint32_t number, uint32_t record) {
  Segment& segment = segments_[number];
  PolicyNode& node = nodes_[record];
  node.list = 1;
  node.group = number;
  node.newer = 0;
  node.older = segment.nearest;
  (segment.nearest != 0 ? nodes_[segment.nearest].newer : segment.deepest) = record;
  segment.nearest = record;
  ++segment.size;
  ++records_;
  CountInCell(segment, 1);
}

void Segments::InsertBehind(uint32_t anchor, uint32_t record) {
  const uint32_t number = nodes_[anchor].group;
  Segment& segment = segments_[number];
  PolicyNode& node = nodes_[record];
  node.list = 1;
  node.group = number;
  node.newer = anchor;
  node.older = nodes_[anchor].older;
  (node.older != 0 ? nodes_[node.older].newer : segment.deepest) = record;
  nodes_[anchor].older = record;
  ++segment.size;
  ++records_;
  CountInCell(segment, 1);
}

void Segments::Remove(uint32_t record) {
  PolicyNode& node = nodes_[record];
  const uint32_t number = node.group;
  Segment& segment = segments_[number];
  (node.newer != 0 ? nodes_[node.newer].older : segment.nearest) = node.older;
  (node.older != 0 ? nodes_[node.older].newer : segment.deepest) = node.newer;
  node.newer = node.older = 0;
  node.list = 0;
  --segment.size;
  --records_;
  CountInCell(segment, -1);
  if (segment.size == 0 && !segment.kept) Close(number);
}

void Segments::Advance(uint64_t now_ms) {
  advanced_ms_ = now_ms;
  ForEachUsedClass([&](int reuse_class) {
    // From the youngest bin on, as what leaves one may have to leave the next too.
    for (uint32_t bins = used_bins_[reuse_class]; bins != 0;) {
      const int bin = std::countr_zero(bins);
      if (bin + 1 == kBins) break;
      const Cell& cell = cells_[ReuseTable::CellOf(reuse_class, bin)];
      while (cell.oldest != 0) {
        const uint32_t oldest = cell.oldest;
        if (now_ms - segments_[oldest].turn.start_ms < ReuseTable::EdgeMs(bin + 1)) break;
        LeaveCell(oldest);
        ++segments_[oldest].bin;
        EnterCell(oldest, 0);
      }
      bins = used_bins_[reuse_class] & (~uint32_t{1} << bin);
    }
  });
}

void Segments::SetOrder(const std::vector<uint16_t>& order) {
  filled_ = {};
  for (size_t rank = 0; rank < order.size(); ++rank) {
    cell_at_[rank] = order[rank];
    rank_of_[order[rank]] = static_cast<uint16_t>(rank);
    if (cells_[order[rank]].records != 0) filled_[rank / 64] |= uint64_t{1} << (rank % 64);
  }
}

int Segments::FirstCell(int rank) const {
  for (size_t word = rank / 64; word < kRankWords; ++word) {
    uint64_t bits = filled_[word];
    if (word == static_cast<size_t>(rank) / 64) bits &= ~uint64_t{0} << (rank % 64);
    if (bits != 0) return cell_at_[word * 64 + std::countr_zero(bits)];
  }
  return -1;
}

uint32_t Segments::Oldest() const {
  uint32_t first = earliest_;
  while (first != 0 && segments_[first].size == 0) first = segments_[first].later;
  if (first == 0) return 0;
  // Of its turn there may be thousands, but all are of one age, and in each class in order.
  uint32_t oldest = 0;
  ForEachUsedClass([&](int reuse_class) {
    const uint32_t segment = OldestIn(ReuseTable::CellOf(reuse_class, segments_[first].bin));
    if (segment == 0 || segments_[segment].turn != segments_[first].turn) return;
    const bool ends = ReuseTable::EndsRequest(reuse_class);
    if (oldest == 0 || (ends && !ReuseTable::EndsRequest(segments_[oldest].reuse_class))) {
      oldest = segment;
    }
  });
  return oldest;
}

size_t Segments::memory_bytes() const {
  return sizeof *this + segments_.memory_bytes() +
         ReuseTable::kCells * (sizeof(Cell) + 2 * sizeof(uint16_t));
}

}  // namespace infercache::store
