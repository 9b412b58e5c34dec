// Walks over the whole index: List and Flush. Each shard's lock is held for a few buckets at a
// time.

#include <algorithm>
#include <optional>
#include <utility>

#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

bool ByKey(const ListEntry& a, const ListEntry& b) { return a.key < b.key; }

uint64_t Bytes(const ListEntry& entry) { return entry.key.size() + entry.part_table.size(); }

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
                               std::string_view after, size_t limit, uint64_t max_bytes) const {
  std::vector<ListEntry> heap;  // the smallest keys so far, the largest of them on top
  uint64_t bytes = 0;
  std::optional<std::string> end;  // this key and larger ones are not on the page
  const uint64_t now = now_ms();
  const auto consider = [&](const shm::Record& record) {
    const std::string_view key = index().key(record);
    if (!key.starts_with(key_prefix) || key <= after) return;
    if (end.has_value() && key >= *end) return;
    // The fingerprint is in the hash: only under the asked one does the key hash to what is stored.
    if (index_.HashOf(fingerprint, key) != record.hash()) return;
    if (index().expired(record, now)) return;
    heap.push_back(
        {std::string(key), record.size(), InfoOf(record), std::string(index().part_table(record))});
    bytes += Bytes(heap.back());
    std::push_heap(heap.begin(), heap.end(), ByKey);
    while (heap.size() > limit || (bytes > max_bytes && heap.size() > 1)) {
      std::pop_heap(heap.begin(), heap.end(), ByKey);
      bytes -= Bytes(heap.back());
      end = std::move(heap.back().key);
      heap.pop_back();
    }
  };
  ForEachRun(0, index_.bucket_count(), [&](Shard& shard, uint32_t first, uint32_t end_bucket) {
    MutexLock lock(&shard.mu);
    for (uint32_t bucket = first; bucket < end_bucket; ++bucket) {
      index_.ForEachInChain(bucket, [&](uint32_t record) { consider(index().record(record)); });
    }
  });
  std::sort_heap(heap.begin(), heap.end(), ByKey);
  return {.entries = std::move(heap), .more = end.has_value()};
}

}  // namespace infercache::store
