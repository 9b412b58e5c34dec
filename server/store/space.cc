#include "server/store/space.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace infercache::store {
namespace {

constexpr uint64_t kMinGranuleBytes = 64;         // a cache line: no two objects share one
constexpr uint64_t kMinDeviceGranuleBytes = 256;  // what cudaMalloc aligns to
constexpr uint64_t kHeapGranuleBytes = 16;
constexpr uint64_t kPageBytes = 4096;
constexpr uint32_t kMostSearched = 16'384;  // records that one search looks at, under the lock

uint64_t DivideUp(uint64_t n, uint64_t by) { return (n + by - 1) / by; }

ArenaGeometry Plan(uint64_t quota_bytes, uint64_t max_chunk_bytes, uint64_t page_bytes,
                   uint64_t min_granule_bytes) {
  ArenaGeometry geometry;
  // Block addresses are 32 bits of granules, of which rounding up to whole chunks may use some.
  geometry.granule_bytes =
      std::max(min_granule_bytes, std::bit_ceil(DivideUp(quota_bytes, uint64_t{1} << 30)));
  const uint64_t unit = std::max(page_bytes, geometry.granule_bytes);
  const uint64_t largest = std::max(max_chunk_bytes / unit, uint64_t{1}) * unit;
  geometry.chunk_count = std::max(DivideUp(quota_bytes, largest), uint64_t{1});
  geometry.chunk_bytes = DivideUp(DivideUp(quota_bytes, geometry.chunk_count), unit) * unit;
  return geometry;
}

}  // namespace

ArenaGeometry PlanArena(uint64_t quota_bytes, uint64_t max_chunk_bytes, PageKind pages) {
  return Plan(quota_bytes, max_chunk_bytes,
              pages == PageKind::kHugetlb ? kHugePageBytes : kPageBytes, kMinGranuleBytes);
}

ArenaGeometry PlanDeviceArena(uint64_t quota_bytes, uint64_t max_chunk_bytes,
                              uint64_t allocation_bytes) {
  return Plan(quota_bytes, max_chunk_bytes, allocation_bytes, kMinDeviceGranuleBytes);
}

absl::Status CheckChunkCount(const ArenaGeometry& arena) {
  if (arena.chunk_count <= kMaxChunks) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(arena.total_bytes(), " bytes take ", arena.chunk_count, " chunks of ",
                   arena.chunk_bytes, " bytes; the limit is ", kMaxChunks));
}

absl::StatusOr<std::unique_ptr<Space>> Space::Create(const ArenaGeometry& geometry,
                                                     std::unique_ptr<Chunks> chunks,
                                                     const IndexSegment& index) {
  const uint32_t records = index.view().header().record_capacity;
  ASSIGN_OR_RETURN(SparseArray<RecordState> states,
                   SparseArray<RecordState>::Create(size_t{records} + 1, "states"));
  ASSIGN_OR_RETURN(BlockAllocator arena, BlockAllocator::Create(records));
  ASSIGN_OR_RETURN(BlockAllocator heap, BlockAllocator::Create(records));
  return std::unique_ptr<Space>(new Space(index, geometry, std::move(chunks), std::move(states),
                                          std::move(arena), std::move(heap)));
}

Space::Space(const IndexSegment& index, const ArenaGeometry& geometry,
             std::unique_ptr<Chunks> chunks, SparseArray<RecordState> states, BlockAllocator arena,
             BlockAllocator heap)
    : index_(index),
      geometry_(geometry),
      chunks_(std::move(chunks)),
      states_(std::move(states)),
      arena_(std::move(arena)),
      heap_(std::move(heap)) {
  const auto granules = static_cast<uint32_t>(geometry_.chunk_bytes / geometry_.granule_bytes);
  for (uint32_t i = 0; i < geometry_.chunk_count; ++i) arena_.AddRegion(i * granules, granules);
  heap_.AddRegion(0, static_cast<uint32_t>(index.view().header().heap_bytes / kHeapGranuleBytes));
}

uint64_t Space::RoundUp(uint64_t size) const {
  return DivideUp(std::max<uint64_t>(size, 1), geometry_.granule_bytes) * geometry_.granule_bytes;
}

std::optional<Room> Space::Allocate(uint64_t size, uint64_t meta_size, Shortage* shortage) {
  const uint64_t granules = RoundUp(size) / geometry_.granule_bytes;
  const bool in_heap = meta_size > shm::Record::kInlineMetaBytes;
  Room room;
  MutexLock lock(&mu_);
  room.record = free_record_ == 0 ? next_record_ : free_record_;
  *shortage = Shortage::kRecordsOrKeys;
  if (room.record > index_.view().header().record_capacity) return std::nullopt;
  if (in_heap) {
    const auto heap_granules = static_cast<uint32_t>(DivideUp(meta_size, kHeapGranuleBytes));
    if (!heap_.Allocate(room.record, heap_granules)) return std::nullopt;
    room.heap_offset = uint64_t{heap_.Get(room.record).start} * kHeapGranuleBytes;
  }
  if (!arena_.Allocate(room.record, static_cast<uint32_t>(granules))) {
    if (in_heap) heap_.Free(room.record);
    *shortage = Shortage::kBytes;
    return std::nullopt;
  }
  *shortage = Shortage::kNone;
  RecordState& state = states_[room.record];
  if (free_record_ == 0) {
    ++next_record_;
    // Fresh memory says 0, which would read as visible.
    index_.view().record(room.record).generation.store(1, std::memory_order_relaxed);
  } else {
    free_record_ = state.pins.exchange(0, std::memory_order_relaxed);
  }
  state.phase.store(Phase::kReserved, std::memory_order_relaxed);
  // In granules, as the regions were added.
  const uint64_t start = arena_.Get(room.record).start;
  const uint64_t chunk_granules = geometry_.chunk_bytes / geometry_.granule_bytes;
  room.segment = static_cast<uint32_t>(start / chunk_granules);
  room.offset = start % chunk_granules * geometry_.granule_bytes;
  room.bytes = BytesAt(room.segment, room.offset, size);
  use_.reserved_bytes += granules * geometry_.granule_bytes;
  ++use_.reserved;
  room.free_bytes_left = arena_.free_granules() * geometry_.granule_bytes;
  return room;
}

uint64_t Space::BlockBytes(uint32_t record) const {
  return uint64_t{arena_.Get(record).size} * geometry_.granule_bytes;
}

void Space::MoveToVisible(uint32_t record) {
  MutexLock lock(&mu_);
  const uint64_t bytes = BlockBytes(record);
  use_.reserved_bytes -= bytes;
  use_.visible_bytes += bytes;
  --use_.reserved;
  ++use_.visible;
}

void Space::MoveToLimbo(std::span<const uint32_t> records) {
  MutexLock lock(&mu_);
  for (const uint32_t record : records) {
    const uint64_t bytes = BlockBytes(record);
    use_.visible_bytes -= bytes;
    use_.limbo_bytes += bytes;
    --use_.visible;
    ++use_.limbo;
  }
}

void Space::FreeReserved(uint32_t record) {
  MutexLock lock(&mu_);
  use_.reserved_bytes -= BlockBytes(record);
  --use_.reserved;
  if (states_[record].phase.load(std::memory_order_relaxed) == Phase::kQuarantined) {
    use_.quarantined_bytes -= BlockBytes(record);
  }
  Free(record);
}

void Space::Quarantine(uint32_t record) {
  MutexLock lock(&mu_);
  if (states_[record].phase.exchange(Phase::kQuarantined, std::memory_order_relaxed) !=
      Phase::kQuarantined) {
    use_.quarantined_bytes += BlockBytes(record);
  }
}

AgedBytes Space::LimboByAge(std::span<const std::pair<uint32_t, uint64_t>> waiting,
                            uint64_t now_ms) const {
  AgedBytes aged;
  MutexLock lock(&mu_);
  for (const auto& [record, since_ms] : waiting) {
    // It may have been freed, and used again, since it was seen.
    if (states_[record].phase.load(std::memory_order_relaxed) != Phase::kLimbo) continue;
    aged.Add(BlockBytes(record), now_ms - std::min(since_ms, now_ms));
  }
  return aged;
}

uint64_t Space::PinnedBytes(std::span<const uint64_t> pins, uint64_t* largest) const {
  uint64_t bytes = 0;
  MutexLock lock(&mu_);
  for (const uint64_t pin : pins) {
    const uint32_t record = shm::PinnedRecord(pin);
    if (record == 0 || record > index_.view().header().record_capacity) continue;
    // Whatever generation it names: a scan honours it all the same, so it has to weigh.
    if (!arena_.Has(record)) continue;
    // While mu_ is held, what is visible or in limbo stays a record of the same object. A pin of
    // anything else is nobody's who keeps to the protocol.
    const Phase phase = states_[record].phase.load(std::memory_order_acquire);
    const bool whole = phase == Phase::kVisible || phase == Phase::kLimbo;
    const uint64_t size = whole ? index_.view().record(record).size() : BlockBytes(record);
    bytes += size;
    *largest = std::max(*largest, size);
  }
  return bytes;
}

void Space::FreeLimbo(std::span<const uint32_t> records) {
  MutexLock lock(&mu_);
  for (const uint32_t record : records) {
    use_.limbo_bytes -= BlockBytes(record);
    --use_.limbo;
    Free(record);
  }
}

void Space::Free(uint32_t record) {
  if (heap_.Has(record)) heap_.Free(record);
  arena_.Free(record);
  RecordState& state = states_[record];
  state.phase.store(Phase::kFree, std::memory_order_relaxed);
  state.pins.store(free_record_, std::memory_order_relaxed);
  free_record_ = record;
}

bool Space::MayGo(uint32_t record, const PinnedSet& pinned, Incarnation* seen) const {
  const RecordState& state = states_[record];
  seen->record = record;
  seen->generation = index_.view().record(record).generation.load(std::memory_order_acquire);
  return seen->generation % 2 == 0 &&
         state.phase.load(std::memory_order_acquire) == Phase::kVisible &&
         state.pins.load(std::memory_order_relaxed) == 0 && !pinned.Contains(record);
}

// Grows a window from the victim's block to both sides. At each step the colder neighbour joins, so
// that of all runs that contain the victim a cold one is found without trying them all.
std::optional<std::vector<Incarnation>> Space::PlanHole(uint32_t record, uint64_t size,
                                                        size_t limit,
                                                        const PinnedSet& pinned) const {
  const uint64_t needed = RoundUp(size) / geometry_.granule_bytes;
  MutexLock lock(&mu_);
  if (!arena_.Has(record)) return std::nullopt;
  std::vector<Incarnation> run;
  uint64_t granules = arena_.Get(record).size;
  BlockAllocator::BlockId left = arena_.Previous(record);
  BlockAllocator::BlockId right = arena_.Next(record);
  while (true) {
    for (; BlockAllocator::IsFree(left); left = arena_.Previous(left)) {
      granules += arena_.Get(left).size;
    }
    for (; BlockAllocator::IsFree(right); right = arena_.Next(right)) {
      granules += arena_.Get(right).size;
    }
    if (granules >= needed) return run;
    if (run.size() >= limit) return std::nullopt;
    Incarnation at_left, at_right;
    const bool left_may_go = left != 0 && MayGo(left, pinned, &at_left);
    const bool right_may_go = right != 0 && MayGo(right, pinned, &at_right);
    if (!left_may_go && !right_may_go) return std::nullopt;
    const bool go_left =
        left_may_go &&
        (!right_may_go || states_[at_left.record].stamp.load(std::memory_order_relaxed) <
                              states_[at_right.record].stamp.load(std::memory_order_relaxed));
    run.push_back(go_left ? at_left : at_right);
    BlockAllocator::BlockId& taken = go_left ? left : right;
    granules += arena_.Get(taken).size;
    taken = go_left ? arena_.Previous(taken) : arena_.Next(taken);
  }
}

std::optional<Incarnation> Space::FindAsLarge(uint64_t size, const PinnedSet& pinned) {
  const uint64_t needed = RoundUp(size);
  std::optional<Incarnation> coldest;
  uint64_t coldest_stamp = 0;
  MutexLock lock(&mu_);
  for (uint32_t looked = std::min(next_record_ - 1, kMostSearched); looked > 0; --looked) {
    const uint32_t record = last_searched_ = last_searched_ % (next_record_ - 1) + 1;
    Incarnation seen;
    if (!arena_.Has(record) || BlockBytes(record) < needed || !MayGo(record, pinned, &seen)) {
      continue;
    }
    const uint64_t stamp = states_[record].stamp.load(std::memory_order_relaxed);
    if (coldest.has_value() && stamp >= coldest_stamp) continue;
    coldest = seen;
    coldest_stamp = stamp;
  }
  return coldest;
}

SpaceUse Space::Use() const {
  MutexLock lock(&mu_);
  return UseLocked();
}

SpaceUse Space::FullUse() const {
  MutexLock lock(&mu_);
  SpaceUse use = UseLocked();
  use.largest_free_bytes = uint64_t{arena_.largest_free()} * geometry_.granule_bytes;
  return use;
}

SpaceUse Space::UseLocked() const {
  SpaceUse use = use_;
  use.total_bytes = geometry_.total_bytes();
  use.free_bytes = arena_.free_granules() * geometry_.granule_bytes;
  use.records_ever_used = next_record_ - 1;
  use.allocator_bytes = arena_.metadata_bytes() + heap_.metadata_bytes() +
                        uint64_t{use.records_ever_used} * sizeof(RecordState) +
                        (heap_.total_granules() - heap_.free_granules()) * kHeapGranuleBytes;
  return use;
}

std::span<std::byte> Space::BytesAt(uint32_t chunk, uint64_t offset, uint64_t size) const {
  const std::span<std::byte> all = chunks_->bytes(chunk);
  return all.empty() ? all : all.subspan(offset, size);
}

std::span<std::byte> Space::BytesOf(const shm::Record& record) const {
  return BytesAt(record.segment(), record.offset(), record.size());
}

bool Space::CheckInvariants() const {
  MutexLock lock(&mu_);
  const uint64_t in_use =
      (arena_.total_granules() - arena_.free_granules()) * geometry_.granule_bytes;
  return arena_.CheckInvariants() && heap_.CheckInvariants() &&
         in_use == use_.reserved_bytes + use_.visible_bytes + use_.limbo_bytes;
}

}  // namespace infercache::store
