// Walks over the whole index: List and Flush. Each shard's lock is held for a few buckets at a
// time.

#include <algorithm>

#include "common/part_table.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

// An entry as it is found under a lock: its parts are decoded once it is known to be on the page.
struct Found {
  std::string key;
  uint64_t size_bytes = 0;
  ObjectInfo info;
  std::string part_table;
};

bool ByKey(const Found& a, const Found& b) { return a.key < b.key; }

}  // namespace

uint64_t Namespace::Impl::Flush(std::string_view key_prefix) {
  uint64_t erased = 0;
  ForEachRun(0, index_.bucket_count(), [&](Shard& shard, uint32_t first, uint32_t end) {
    Removed removed;
    {
      std::vector<uint32_t> matching;
      MutexLock lock(&shard.mu);
      for (uint32_t bucket = first; bucket < end; ++bucket) {
        index_.ForEachInChain(bucket, [&](uint32_t record) {
          if (index().key(index().record(record)).starts_with(key_prefix)) {
            matching.push_back(record);
          }
        });
      }
      for (const uint32_t record : matching) {
        const bool expired = index().expired(index().record(record), now_ms());
        Retire(shard, record, expired ? EventKind::kExpired : EventKind::kFlushed, &removed);
        erased += expired ? 0 : 1;
      }
    }
    Finish(removed);
  });
  return erased;
}

ListPage Namespace::Impl::List(const Hash128& fingerprint, std::string_view key_prefix,
                               std::string_view after, size_t limit) const {
  std::vector<Found> heap;  // the smallest limit + 1 keys, the largest of them on top
  const uint64_t now = now_ms();
  const auto consider = [&](const shm::Record& record) {
    const std::string_view key = index().key(record);
    if (!key.starts_with(key_prefix) || key <= after) return;
    if (heap.size() > limit && key >= heap.front().key) return;
    // The fingerprint is in the hash: only under the asked one does the key hash to what is stored.
    if (index_.HashOf(fingerprint, key) != record.hash()) return;
    if (index().expired(record, now)) return;
    if (heap.size() > limit) {
      std::pop_heap(heap.begin(), heap.end(), ByKey);
      heap.pop_back();
    }
    heap.push_back(
        {std::string(key), record.size(), InfoOf(record), std::string(index().part_table(record))});
    std::push_heap(heap.begin(), heap.end(), ByKey);
  };
  ForEachRun(0, index_.bucket_count(), [&](Shard& shard, uint32_t first, uint32_t end) {
    MutexLock lock(&shard.mu);
    for (uint32_t bucket = first; bucket < end; ++bucket) {
      index_.ForEachInChain(bucket, [&](uint32_t record) { consider(index().record(record)); });
    }
  });
  std::sort_heap(heap.begin(), heap.end(), ByKey);
  ListPage page;
  page.more = heap.size() > limit;
  if (page.more) heap.pop_back();
  for (Found& found : heap) {
    page.entries.push_back({std::move(found.key), found.size_bytes, std::move(found.info),
                            *DecodePartTable(found.part_table)});
  }
  return page;
}

}  // namespace infercache::store
