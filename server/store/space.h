// Where the bytes, records and long keys of one namespace come from, and the books on them: every
// granule is free, reserved, visible or in limbo, and the sum never exceeds the quota because the
// arena is no larger.
//
// Thread-safe; its lock is a leaf (nothing is called under it).

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/memory_segment.h"
#include "common/mutex.h"
#include "server/store/aged_bytes.h"
#include "server/store/block_allocator.h"
#include "server/store/chunks.h"
#include "server/store/index_segment.h"
#include "server/store/limbo.h"
#include "server/store/record_state.h"
#include "server/store/sparse_array.h"

namespace infercache::store {

// How a quota is cut: equal chunks, so that an address is a chunk and an offset.
struct ArenaGeometry {
  uint64_t granule_bytes = 0;  // a power of two; what blocks are rounded up to
  uint64_t chunk_bytes = 0;    // whole pages and whole granules
  uint64_t chunk_count = 0;

  uint64_t total_bytes() const { return chunk_bytes * chunk_count; }
};
inline constexpr uint64_t kMaxChunks = 65'535;  // a record has 16 bits for the chunk
// INVALID_ARGUMENT: it has more.
absl::Status CheckChunkCount(const ArenaGeometry& arena);

// The smallest arena of at least `quota_bytes` in chunks of at most `max_chunk_bytes` (rounded down
// to whole granules) and of whole pages.
ArenaGeometry PlanArena(uint64_t quota_bytes, uint64_t max_chunk_bytes,
                        PageKind pages = PageKind::k4k);
// The same in a GPU, which allocates in multiples of `allocation_bytes`; objects begin where its
// own allocator would let them begin.
ArenaGeometry PlanDeviceArena(uint64_t quota_bytes, uint64_t max_chunk_bytes,
                              uint64_t allocation_bytes);

// What an object did not get room for lack of.
enum class Shortage { kNone, kBytes, kRecordsOrKeys };

// One object's room: a record, its bytes, and maybe a place in the key heap.
struct Room {
  uint32_t record = 0;
  uint32_t segment = 0;                 // arena chunk
  uint64_t offset = 0;                  // in that chunk
  std::span<std::byte> bytes;           // empty if the CPU cannot touch them
  uint64_t free_bytes_left = 0;         // in the arena, after this
  std::optional<uint64_t> heap_offset;  // of key and parts, if they do not fit the record
};

// Exact at one moment: taken under one lock.
struct SpaceUse {
  uint64_t total_bytes = 0, free_bytes = 0, largest_free_bytes = 0;
  uint64_t reserved_bytes = 0, visible_bytes = 0, limbo_bytes = 0;  // rounding included
  uint64_t quarantined_bytes = 0;                                   // part of reserved_bytes
  uint64_t reserved = 0, visible = 0, limbo = 0;                    // objects
  uint64_t allocator_bytes = 0;
  uint32_t records_ever_used = 0;
};

// A record as it was seen: once its generation has moved, it stands for something else.
struct Incarnation {
  uint32_t record = 0;
  uint64_t generation = 0;
};

class Space {
 public:
  // `index` outlives the space. REQUIRES: `chunks` are as `geometry` says.
  static absl::StatusOr<std::unique_ptr<Space>> Create(const ArenaGeometry& geometry,
                                                       std::unique_ptr<Chunks> chunks,
                                                       const IndexSegment& index);

  // Bytes that an object of `size` takes.
  uint64_t RoundUp(uint64_t size) const;
  uint64_t largest_object_bytes() const { return geometry_.chunk_bytes; }

  // Room for an object, counted as reserved; its record's generation is odd. nullopt if there is
  // none right now, with the reason in *shortage.
  std::optional<Room> Allocate(uint64_t size, uint64_t meta_size, Shortage* shortage);
  // reserved -> visible, or visible -> limbo.
  void MoveToVisible(uint32_t record);
  void MoveToLimbo(std::span<const uint32_t> records);
  // reserved -> free, or limbo -> free. REQUIRES: nobody reads these records any more.
  void FreeReserved(uint32_t record);
  // A reserved record that will be freed, once its writer is known to have stopped.
  void Quarantine(uint32_t record);
  void FreeLimbo(std::span<const uint32_t> records);

  // The visible, unpinned objects around `record` whose blocks, with its own and the free ones
  // between, make one hole of at least `size` bytes; the coldest such run that grows from there, at
  // most `limit` objects, `record` not among them. nullopt if something in use is in the way.
  // `pinned`: what clients' pages name.
  std::optional<std::vector<Incarnation>> PlanHole(uint32_t record, uint64_t size, size_t limit,
                                                   const PinnedSet& pinned) const;

  // Without largest_free_bytes, which takes a search.
  SpaceUse Use() const;
  SpaceUse FullUse() const;
  // The coldest of the visible, unpinned objects whose block alone has room for `size` bytes; of
  // the records that one search looks at, which begins where the last one ended.
  std::optional<Incarnation> FindAsLarge(uint64_t size, const PinnedSet& pinned);

  uint64_t total_bytes() const { return geometry_.total_bytes(); }
  const ArenaGeometry& geometry() const { return geometry_; }
  const Chunks& chunks() const { return *chunks_; }
  // The bytes of those of these (record, since when) pairs that are in limbo, by their age.
  AgedBytes LimboByAge(std::span<const std::pair<uint32_t, uint64_t>> waiting,
                       uint64_t now_ms) const;
  // The bytes of the objects that these pins, which may be any words, keep from being reused: each
  // its size, as its client counts it (client/src/session_pins.h), not that of its block. Raises
  // `largest` to those of the largest.
  uint64_t PinnedBytes(std::span<const uint64_t> pins, uint64_t* largest) const;
  // Empty if the CPU cannot touch them.
  std::span<std::byte> BytesOf(const shm::Record& record) const;
  RecordState& state(uint32_t record) const { return states_[record]; }
  bool CheckInvariants() const;

 private:
  Space(const IndexSegment& index, const ArenaGeometry& geometry, std::unique_ptr<Chunks> chunks,
        SparseArray<RecordState> states, BlockAllocator arena, BlockAllocator heap);
  std::span<std::byte> BytesAt(uint32_t chunk, uint64_t offset, uint64_t size) const;
  SpaceUse UseLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t BlockBytes(uint32_t record) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Free(uint32_t record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool MayGo(uint32_t record, const PinnedSet& pinned, Incarnation* seen) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const IndexSegment& index_;
  const ArenaGeometry geometry_;
  const std::unique_ptr<Chunks> chunks_;
  const SparseArray<RecordState> states_;

  mutable Mutex mu_;
  // Whose blocks are named by their records.
  BlockAllocator arena_ ABSL_GUARDED_BY(mu_);
  BlockAllocator heap_ ABSL_GUARDED_BY(mu_);
  // Used once and free again: a list through the states' pins.
  uint32_t free_record_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t next_record_ ABSL_GUARDED_BY(mu_) = 1;  // this and higher ones were never used
  uint32_t last_searched_ ABSL_GUARDED_BY(mu_) = 0;
  SpaceUse use_ ABSL_GUARDED_BY(mu_);  // the counts that are not derived
};

}  // namespace infercache::store
