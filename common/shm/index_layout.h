// The shared index: what lies where in the segment that the daemon writes and readers map
// read-only. docs/shared_memory.md is the normative text; this header is its C++ form.
//
//   IndexHeader                      one page
//   Bucket[bucket_count]             by hash
//   Bucket[overflow_bucket_count]
//   Record[record_capacity + 1]      by number; 0 is none
//   key heap                         what does not fit into a record
//
// All integers are little-endian. Everything after the header is written by the daemon only, under
// the lock of the shard that the hash belongs to; readers follow reader.h.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "common/hash.h"
#include "infercache/types.h"

namespace infercache::shm {

static_assert(std::atomic<uint64_t>::is_always_lock_free &&
                  std::atomic<uint32_t>::is_always_lock_free,
              "shared memory needs address-free atomics");

inline constexpr uint64_t kIndexMagic = 0x3278646e69636669;  // "ifcindx2"
inline constexpr uint32_t kIndexLayoutVersion = 2;
inline constexpr size_t kIndexPageBytes = 4096;

// Constant once the segment is handed out.
struct IndexHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t bucket_count;
  uint32_t overflow_bucket_count;
  uint32_t record_capacity;  // records 1..record_capacity; 0 means "none"
  uint64_t hash_seed;
  uint64_t expiry_epoch_ms;  // expiry ticks count from here, on the monotonic clock
  uint64_t buckets_offset;   // bytes from the start of the segment, as all offsets here
  uint64_t overflow_offset;
  uint64_t records_offset;
  uint64_t heap_offset;
  uint64_t heap_bytes;
  uint64_t segment_bytes;
};
static_assert(sizeof(IndexHeader) <= kIndexPageBytes && std::is_standard_layout_v<IndexHeader>);

// One cache line of the hash table. Entries are set, replaced in place and cleared, but never move.
//
//   0        4        8                                                            64
//   +--------+--------+------------------------------------------------------------+
//   | version| next   | entries[7]: (high half of hash.lo) << 32 | record, 0 = empty |
//   +--------+--------+------------------------------------------------------------+
//
// `version` of the head bucket is raised before every change anywhere in its chain: a search that
// found nothing counts only if it has not moved. `next` is the overflow bucket's number + 1.
struct alignas(64) Bucket {
  static constexpr size_t kEntries = 7;
  std::atomic<uint32_t> version;
  std::atomic<uint32_t> next;
  std::atomic<uint64_t> entries[kEntries];
};
static_assert(sizeof(Bucket) == 64 && std::is_standard_layout_v<Bucket>);

// Longest chain: a head and this many overflow buckets.
inline constexpr int kMaxOverflowBuckets = 4;

inline constexpr uint64_t MakeEntry(const Hash128& hash, uint32_t record) {
  return (hash.lo & 0xffffffff00000000u) | record;
}
inline constexpr uint32_t EntryRecord(uint64_t entry) { return static_cast<uint32_t>(entry); }
inline constexpr bool EntryMayBe(uint64_t entry, const Hash128& hash) {
  return ((entry ^ hash.lo) >> 32) == 0 && EntryRecord(entry) != 0;
}

inline constexpr uint64_t kExpiryTickMs = 100;

// One object. While `generation` is even the record is visible and everything else in it is
// constant; a reader that has pinned it (reader.h) reads it with plain loads.
struct Record {
  static constexpr size_t kInlineMetaBytes = 42;

  std::atomic<uint64_t> generation;
  uint64_t hash_lo;
  uint64_t hash_hi;
  uint64_t place;        // segment << 48 | byte offset in that arena chunk
  uint64_t bits;         // size 44 | kind 4 | class 4 | key size 11 | meta is in the heap 1
  uint32_t expiry_tick;  // of kExpiryTickMs since expiry_epoch_ms, 0 = never
  uint32_t checksum;     // CRC32C of the value if the namespace keeps checksums, else 0
  float compute_cost_ms;
  uint16_t meta_size;
  // The key and, behind it, the part table (part_table.h). If they do not fit: their offset in the
  // key heap (8 bytes).
  char meta[kInlineMetaBytes];

  Hash128 hash() const { return {hash_lo, hash_hi}; }
  uint32_t segment() const { return static_cast<uint32_t>(place >> 48); }
  uint64_t offset() const { return place & ((uint64_t{1} << 48) - 1); }
  uint64_t size() const { return bits & ((uint64_t{1} << 44) - 1); }
  ObjectKind kind() const { return static_cast<ObjectKind>((bits >> 44) & 0xf); }
  uint8_t class_id() const { return (bits >> 48) & 0xf; }
  uint32_t key_size() const { return (bits >> 52) & 0x7ff; }
  bool meta_in_heap() const { return (bits >> 63) != 0; }
  uint64_t heap_offset() const {
    uint64_t offset;
    std::memcpy(&offset, meta, sizeof offset);
    return offset;
  }

  static constexpr uint64_t MakePlace(uint32_t segment, uint64_t offset) {
    return uint64_t{segment} << 48 | offset;
  }
  static constexpr uint64_t MakeBits(uint64_t size, ObjectKind kind, uint8_t class_id,
                                     size_t key_size, bool meta_in_heap) {
    return size | uint64_t{static_cast<uint8_t>(kind)} << 44 | uint64_t{class_id} << 48 |
           uint64_t{key_size} << 52 | uint64_t{meta_in_heap} << 63;
  }
};
static_assert(sizeof(Record) == 96 && offsetof(Record, meta) == 54 &&
              std::is_standard_layout_v<Record>);

// A mapped index segment, taken apart. Copyable; does not own the memory. The daemon's view points
// to writable memory; readers only ever load through theirs. Whatever is in the segment, nothing
// outside of it is accessed: a reader does not depend on its daemon to make sense.
class IndexView {
 public:
  IndexView() = default;
  // REQUIRES: `memory` starts with a header that CheckIndexHeader accepted for its size. It is read
  // here, and not again.
  explicit IndexView(std::span<std::byte> memory)
      : base_(memory.data()), header_(*reinterpret_cast<const IndexHeader*>(memory.data())) {}

  const IndexHeader& header() const { return header_; }
  uint32_t bucket_of(const Hash128& hash) const {
    // From the high word: the low word's upper half is the entry's tag.
    return static_cast<uint32_t>((hash.hi >> 32) * header_.bucket_count >> 32);
  }
  // REQUIRES: i < bucket_count.
  Bucket& bucket(uint32_t i) const { return At<Bucket>(header_.buckets_offset, i); }
  // REQUIRES: i < overflow_bucket_count.
  Bucket& overflow_bucket(uint32_t i) const { return At<Bucket>(header_.overflow_offset, i); }
  // Record 0, which is none, for a number that there is not.
  Record& record(uint32_t i) const {
    return At<Record>(header_.records_offset, i <= header_.record_capacity ? i : 0);
  }
  // The next bucket of a chain, or null.
  Bucket* next(const Bucket& bucket) const {
    const uint32_t next = bucket.next.load(std::memory_order_acquire);
    return next - 1 < header_.overflow_bucket_count ? &overflow_bucket(next - 1) : nullptr;
  }

  // Key and part table of a record that cannot change under the caller; empty, as no key is, if
  // what the record says of them makes no sense.
  std::string_view meta(const Record& record) const {
    const size_t size = record.meta_size;
    if (!record.meta_in_heap()) [[likely]] {
      return {record.meta, size <= Record::kInlineMetaBytes ? size : 0};
    }
    const uint64_t offset = record.heap_offset();
    if (offset > header_.heap_bytes || size > header_.heap_bytes - offset) return {};
    return {reinterpret_cast<const char*>(heap() + offset), size};
  }
  std::string_view key(const Record& record) const {
    const std::string_view both = meta(record);
    const size_t size = record.key_size();
    return {both.data(), size <= both.size() ? size : 0};
  }
  std::string_view part_table(const Record& record) const {
    std::string_view both = meta(record);
    both.remove_prefix(std::min<size_t>(record.key_size(), both.size()));
    return both;
  }
  bool expired(const Record& record, uint64_t now_ms) const {
    return record.expiry_tick != 0 &&
           now_ms >= header_.expiry_epoch_ms + uint64_t{record.expiry_tick} * kExpiryTickMs;
  }
  std::byte* heap() const { return base_ + header_.heap_offset; }

 private:
  template <class T>
  T& At(uint64_t offset, uint32_t i) const {
    return reinterpret_cast<T*>(base_ + offset)[i];
  }

  std::byte* base_ = nullptr;
  IndexHeader header_ = {};
};

// Whether this is a header of this layout whose tables lie within a segment of `segment_bytes`.
bool CheckIndexHeader(const IndexHeader& header, uint64_t segment_bytes);
// Whether `memory` starts with a header of this layout whose tables lie within it.
bool CheckIndexHeader(std::span<const std::byte> memory);

}  // namespace infercache::shm
