#include "server/store/index_segment.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache::store {
namespace {

using shm::Bucket;

// Address space only: pages come when used. Room for the longest key and a usual part table for
// every object, so that as a rule records run out before the heap does; but tiny objects with
// everything as long as it may be must not take more of the machine than a quarter of the quota.
constexpr uint64_t kMetaHeapBytesPerObject = 2048;
constexpr uint64_t kMaxHeapBytes = uint64_t{32} << 30;
constexpr uint64_t kMinHeapBytes = 64 * (kMaxKeyBytes + kMaxPartTableBytes);

uint64_t Align64(uint64_t n) { return (n + 63) / 64 * 64; }

uint64_t HeapBytes(const IndexSegment::Options& options) {
  const uint64_t wanted = std::min(options.max_objects * kMetaHeapBytesPerObject,  //
                                   options.quota_bytes / 4);
  return Align64(std::clamp(wanted, kMinHeapBytes, kMaxHeapBytes));
}

shm::IndexHeader MakeHeader(const IndexSegment::Options& options) {
  shm::IndexHeader h{};
  h.magic = shm::kIndexMagic;
  h.layout_version = shm::kIndexLayoutVersion;
  // Four entries a head bucket when full. As objects come and go, an overflow bucket that was
  // needed once stays for as long as one of its entries does: 16 % of the heads have one. There is
  // room for a quarter, and eight more in each shard, as in a small index a few heads may be
  // unlucky.
  const uint32_t heads_per_shard = (options.max_objects - 1) / (4 * options.shards) + 1;
  h.bucket_count = options.shards * heads_per_shard;
  h.overflow_bucket_count = options.shards * (heads_per_shard / 4 + 8);
  h.record_capacity = options.max_objects;
  h.hash_seed = options.hash_seed;
  h.expiry_epoch_ms = options.expiry_epoch_ms;
  h.buckets_offset = shm::kIndexPageBytes;
  h.overflow_offset = h.buckets_offset + uint64_t{h.bucket_count} * sizeof(Bucket);
  h.records_offset = h.overflow_offset + uint64_t{h.overflow_bucket_count} * sizeof(Bucket);
  h.heap_offset =
      Align64(h.records_offset + (uint64_t{h.record_capacity} + 1) * sizeof(shm::Record));
  h.heap_bytes = HeapBytes(options);
  const uint64_t end = h.heap_offset + h.heap_bytes;
  h.segment_bytes = (end + shm::kIndexPageBytes - 1) / shm::kIndexPageBytes * shm::kIndexPageBytes;
  return h;
}

}  // namespace

absl::StatusOr<IndexSegment> IndexSegment::Create(const Options& options) {
  const shm::IndexHeader header = MakeHeader(options);
  ASSIGN_OR_RETURN(MemorySegment segment,
                   MemorySegment::Create("infercache-index-" + options.name, header.segment_bytes,
                                         MemorySegment::Access::kReadOnlyForOthers));
  std::memcpy(segment.bytes().data(), &header, sizeof header);
  return IndexSegment(std::move(segment), options.shards);
}

IndexSegment::IndexSegment(MemorySegment segment, uint32_t shards)
    : segment_(std::move(segment)),
      view_(segment_.bytes()),
      buckets_per_shard_(view_.header().bucket_count / shards),
      overflow_(shards) {
  const uint32_t per_shard = view_.header().overflow_bucket_count / shards;
  for (uint32_t shard = 0; shard < shards; ++shard) {
    overflow_[shard].next_fresh = shard * per_shard;
    overflow_[shard].end = (shard + 1) * per_shard;
  }
}

uint32_t IndexSegment::OverflowPool::Take() {
  if (returned.empty()) return next_fresh++;
  const uint32_t bucket = returned.back();
  returned.pop_back();
  return bucket;
}

uint32_t IndexSegment::Find(const Hash128& hash, std::string_view key) const {
  for (const Bucket* b = &view_.bucket(view_.bucket_of(hash)); b != nullptr; b = view_.next(*b)) {
    for (const auto& word : b->entries) {
      const uint64_t entry = word.load(std::memory_order_relaxed);
      if (!shm::EntryMayBe(entry, hash)) continue;
      const shm::Record& record = view_.record(shm::EntryRecord(entry));
      if (record.hash() == hash && view_.key(record) == key) return shm::EntryRecord(entry);
    }
  }
  return 0;
}

bool IndexSegment::Insert(const Hash128& hash, uint32_t record) {
  Bucket& head = view_.bucket(view_.bucket_of(hash));
  Bucket* last = &head;
  int length = 0;
  for (Bucket* b = &head; b != nullptr; b = view_.next(*b), ++length) {
    for (auto& word : b->entries) {
      if (word.load(std::memory_order_relaxed) != 0) continue;
      head.version.fetch_add(1, std::memory_order_relaxed);
      word.store(shm::MakeEntry(hash, record), std::memory_order_release);
      return true;
    }
    last = b;
  }
  OverflowPool& pool = overflow_[shard_of(hash)];
  if (length > shm::kMaxOverflowBuckets || pool.empty()) return false;
  const uint32_t number = pool.Take();
  head.version.fetch_add(1, std::memory_order_relaxed);
  view_.overflow_bucket(number).entries[0].store(shm::MakeEntry(hash, record),
                                                 std::memory_order_release);
  last->next.store(number + 1, std::memory_order_release);
  return true;
}

void IndexSegment::Replace(const Hash128& hash, uint32_t old_record, uint32_t new_record) {
  Bucket& head = view_.bucket(view_.bucket_of(hash));
  head.version.fetch_add(1, std::memory_order_relaxed);
  FindEntry(hash, old_record)->store(shm::MakeEntry(hash, new_record), std::memory_order_release);
}

void IndexSegment::Remove(const Hash128& hash, uint32_t record) {
  Bucket& head = view_.bucket(view_.bucket_of(hash));
  head.version.fetch_add(1, std::memory_order_relaxed);
  FindEntry(hash, record)->store(0, std::memory_order_release);
  Trim(head, shard_of(hash));
}

std::atomic<uint64_t>* IndexSegment::FindEntry(const Hash128& hash, uint32_t record) const {
  for (Bucket* b = &view_.bucket(view_.bucket_of(hash)); b != nullptr; b = view_.next(*b)) {
    for (auto& word : b->entries) {
      if (shm::EntryRecord(word.load(std::memory_order_relaxed)) == record) return &word;
    }
  }
  return nullptr;  // not reached: the caller holds the shard's lock and saw the record linked
}

// A reader that is still in such a bucket while it joins another chain reads entries that are not
// its key's, and then sees that the head's version has moved.
void IndexSegment::Trim(Bucket& head, uint32_t shard) {
  for (Bucket* before = &head; Bucket* b = view_.next(*before);) {
    const bool empty =
        std::all_of(std::begin(b->entries), std::end(b->entries),
                    [](const auto& word) { return word.load(std::memory_order_relaxed) == 0; });
    if (!empty) {
      before = b;
      continue;
    }
    const uint32_t after = b->next.load(std::memory_order_relaxed);
    overflow_[shard].returned.push_back(before->next.load(std::memory_order_relaxed) - 1);
    before->next.store(after, std::memory_order_release);
    // A reader in b that began after Remove raised the version would take the end of b's chain for
    // the end of its own.
    head.version.fetch_add(1, std::memory_order_release);
    b->next.store(0, std::memory_order_release);
  }
}

void IndexSegment::ForEachInChain(const Hash128& hash, absl::FunctionRef<void(uint32_t)> f) const {
  ForEachInChain(view_.bucket_of(hash), f);
}

void IndexSegment::ForEachInChain(uint32_t bucket, absl::FunctionRef<void(uint32_t)> f) const {
  for (const Bucket* b = &view_.bucket(bucket); b != nullptr; b = view_.next(*b)) {
    for (const auto& word : b->entries) {
      const uint32_t record = shm::EntryRecord(word.load(std::memory_order_relaxed));
      if (record != 0) f(record);
    }
  }
}

uint64_t IndexSegment::metadata_bytes(uint32_t records) const {
  const auto& h = view_.header();
  return (uint64_t{h.bucket_count} + h.overflow_bucket_count) * sizeof(Bucket) +
         uint64_t{records} * sizeof(shm::Record);
}

}  // namespace infercache::store
