// The daemon's side of the shared index: creates the segment and changes its buckets.
//
// A hash belongs to a bucket, a bucket to a shard (contiguous runs, each with overflow buckets of
// its own). All calls that take a bucket chain need that shard's lock, held by the caller;
// different shards may be worked on at once. Readers elsewhere see each change as one atomic step.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/hash.h"
#include "common/memory_segment.h"
#include "common/shm/index_layout.h"

namespace infercache::store {

class IndexSegment {
 public:
  struct Options {
    std::string name;
    uint32_t max_objects = 0;
    uint64_t quota_bytes = 0;  // of the namespace's arena
    uint32_t shards = 1;       // a power of two
    uint64_t hash_seed = 0;
    uint64_t expiry_epoch_ms = 0;
  };

  // RESOURCE_EXHAUSTED if the address space or descriptors run out.
  static absl::StatusOr<IndexSegment> Create(const Options& options);

  const shm::IndexView& view() const { return view_; }
  std::span<std::byte> memory() const { return segment_.bytes(); }
  int fd() const { return segment_.fd(); }
  uint32_t shard_of(const Hash128& hash) const {
    return view_.bucket_of(hash) / buckets_per_shard_;
  }
  Hash128 HashOf(const Hash128& fingerprint, std::string_view key) const {
    return HashKey(view_.header().hash_seed, fingerprint, key);
  }

  // The record linked under this hash and key, 0 if none. Expired ones are found too.
  uint32_t Find(const Hash128& hash, std::string_view key) const;
  // False if the chain has no place left and cannot grow.
  bool Insert(const Hash128& hash, uint32_t record);
  // Points the entry of `old_record` at `new_record`, which has the same hash.
  void Replace(const Hash128& hash, uint32_t old_record, uint32_t new_record);
  void Remove(const Hash128& hash, uint32_t record);

  // Calls f(record) for every entry in the chain of `hash`, or of bucket number `bucket`.
  void ForEachInChain(const Hash128& hash, absl::FunctionRef<void(uint32_t)> f) const;
  void ForEachInChain(uint32_t bucket, absl::FunctionRef<void(uint32_t)> f) const;
  uint32_t bucket_count() const { return view_.header().bucket_count; }
  uint32_t buckets_per_shard() const { return buckets_per_shard_; }

  // Buckets plus the given number of records.
  uint64_t metadata_bytes(uint32_t records) const;

 private:
  IndexSegment(MemorySegment segment, uint32_t shards);

  std::atomic<uint64_t>* FindEntry(const Hash128& hash, uint32_t record) const;
  // Takes empty overflow buckets out of a chain.
  void Trim(shm::Bucket& head, uint32_t shard);

  MemorySegment segment_;
  shm::IndexView view_;
  uint32_t buckets_per_shard_ = 0;
  // One shard's overflow buckets that are in no chain. Guarded by that shard's lock, which lives
  // with the caller.
  struct OverflowPool {
    uint32_t next_fresh = 0;  // this and higher ones, up to end, were never used
    uint32_t end = 0;
    std::vector<uint32_t> returned;

    bool empty() const { return returned.empty() && next_fresh == end; }
    uint32_t Take();
  };
  std::vector<OverflowPool> overflow_;  // by shard
};

}  // namespace infercache::store
