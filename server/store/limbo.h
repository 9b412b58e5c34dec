// Records that are no longer visible but may still be read: they wait here until no pin names them.
//
// Thread-safe; its lock is a leaf.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "common/mutex.h"
#include "server/store/client_page.h"

namespace infercache::store {

// The records that readers have pinned, as far as one scan of their pages saw. One bit a record, up
// to the highest that is pinned: a scan may meet 65,536 pins a session, for which a hash set is too
// slow. The generation is left out: a slot that names an earlier one is a reader that is about to
// clear it, and counts until then.
class PinnedSet {
 public:
  bool Contains(uint32_t record) const {
    return record / 64 < words_.size() && ((words_[record / 64] >> (record % 64)) & 1) != 0;
  }
  // How many the scan met, of one record more than once: what it cost.
  size_t pins() const { return pins_; }

 private:
  friend class Limbo;
  std::vector<uint64_t> words_;  // empty = nothing is pinned
  size_t pins_ = 0;
};

class Limbo {
 public:
  // Whether the daemon itself holds a record.
  using PinnedHere = absl::FunctionRef<bool(uint32_t)>;

  // Records are numbered up to `record_capacity`.
  explicit Limbo(uint32_t record_capacity) : record_capacity_(record_capacity) {}

  // `page`'s pins count from here until Detach.
  void Attach(std::shared_ptr<ClientPage> page);
  // False if it was not attached.
  bool Detach(const ClientPage* page);
  std::vector<std::shared_ptr<ClientPage>> Pages() const;
  // Without pages a record is free as soon as the daemon's own pins are gone, with no scan.
  bool has_pages() const { return page_count_.load(std::memory_order_seq_cst) != 0; }

  // Takes in records that have left the index at `now_ms`. Returns those that can be freed at once,
  // which it did not take. REQUIRES: each is unlinked and its generation is already odd (seq_cst),
  // so that a scan which begins after this call, and a page attached after it, decide rightly.
  std::vector<uint32_t> Add(std::span<const uint32_t> records, uint64_t now_ms,
                            PinnedHere pinned_here);
  // After the daemon's last pin of a waiting record is gone: true if it can be freed, and no longer
  // waits. False leaves it to Collect.
  bool TakeUnpinned(uint32_t record, PinnedHere pinned_here);
  // Scans the pages and takes out every record that nobody names any more.
  std::vector<uint32_t> Collect(PinnedHere pinned_here);

  // A scan for choosing victims: who is pinned right now.
  PinnedSet Scan() const;
  // The records that wait and when they came.
  std::vector<std::pair<uint32_t, uint64_t>> Waiting() const;

 private:
  PinnedSet ScanLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint32_t record_capacity_;
  std::atomic<size_t> page_count_{0};  // of pages_; changed under mu_

  mutable Mutex mu_;
  std::vector<std::shared_ptr<ClientPage>> pages_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint32_t, uint64_t> waiting_ ABSL_GUARDED_BY(mu_);  // to when they came
};

}  // namespace infercache::store
