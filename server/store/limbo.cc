#include "server/store/limbo.h"

#include <algorithm>

namespace infercache::store {

void Limbo::Attach(shm::SessionPage* page) {
  MutexLock lock(&mu_);
  pages_.push_back(page);
  page_count_.store(pages_.size(), std::memory_order_seq_cst);
}

void Limbo::Detach(shm::SessionPage* page) {
  MutexLock lock(&mu_);
  std::erase(pages_, page);
  page_count_.store(pages_.size(), std::memory_order_seq_cst);
}

std::vector<uint32_t> Limbo::Add(std::span<const uint32_t> records, PinnedHere pinned_here) {
  std::vector<uint32_t> free;
  MutexLock lock(&mu_);
  for (const uint32_t record : records) {
    if (pages_.empty() && !pinned_here(record)) {
      free.push_back(record);
    } else {
      waiting_.insert(record);
    }
  }
  return free;
}

bool Limbo::TakeUnpinned(uint32_t record, PinnedHere pinned_here) {
  MutexLock lock(&mu_);
  return pages_.empty() && !pinned_here(record) && waiting_.erase(record) != 0;
}

PinnedSet Limbo::ScanLocked() const {
  std::vector<uint32_t> pinned;
  uint32_t highest = 0;
  for (const shm::SessionPage* page : pages_) {
    const uint32_t in_use = page->slots_in_use();
    for (uint32_t i = 0; i < in_use; ++i) {
      const uint32_t record = shm::PinnedRecord(page->slot(i).load(std::memory_order_seq_cst));
      if (record == 0 || record > record_capacity_) continue;  // the page is the client's to spoil
      pinned.push_back(record);
      highest = std::max(highest, record);
    }
  }
  PinnedSet set;
  if (!pinned.empty()) set.words_.resize(highest / 64 + 1);
  for (const uint32_t record : pinned) set.words_[record / 64] |= uint64_t{1} << (record % 64);
  return set;
}

std::vector<uint32_t> Limbo::Collect(PinnedHere pinned_here) {
  std::vector<uint32_t> free;
  MutexLock lock(&mu_);
  if (waiting_.empty()) return free;
  const PinnedSet pinned = ScanLocked();
  absl::erase_if(waiting_, [&](uint32_t record) {
    if (pinned.Contains(record) || pinned_here(record)) return false;
    free.push_back(record);
    return true;
  });
  return free;
}

PinnedSet Limbo::Scan() const {
  if (!has_pages()) return {};
  MutexLock lock(&mu_);
  return ScanLocked();
}

}  // namespace infercache::store
