#include "server/store/limbo.h"

#include <algorithm>

namespace infercache::store {

void Limbo::Attach(std::shared_ptr<ClientPage> page) {
  MutexLock lock(&mu_);
  pages_.push_back(std::move(page));
  page_count_.store(pages_.size(), std::memory_order_seq_cst);
}

bool Limbo::Detach(const ClientPage* page) {
  MutexLock lock(&mu_);
  const size_t gone = std::erase_if(pages_, [page](const auto& p) { return p.get() == page; });
  page_count_.store(pages_.size(), std::memory_order_seq_cst);
  return gone != 0;
}

std::vector<std::shared_ptr<ClientPage>> Limbo::Pages() const {
  if (!has_pages()) return {};
  MutexLock lock(&mu_);
  return pages_;
}

std::vector<uint32_t> Limbo::Add(std::span<const uint32_t> records, uint64_t now_ms,
                                 PinnedHere pinned_here) {
  std::vector<uint32_t> free;
  MutexLock lock(&mu_);
  for (const uint32_t record : records) {
    if (pages_.empty() && !pinned_here(record)) {
      free.push_back(record);
    } else {
      waiting_.emplace(record, now_ms);
    }
  }
  return free;
}

bool Limbo::TakeUnpinned(uint32_t record, PinnedHere pinned_here) {
  MutexLock lock(&mu_);
  return pages_.empty() && !pinned_here(record) && waiting_.erase(record) != 0;
}

PinnedSet Limbo::ScanLocked() const {
  PinnedSet set;
  for (const auto& page : pages_) {
    page->ForEachPin([&](uint64_t pin) {
      ++set.pins_;
      const uint32_t record = shm::PinnedRecord(pin);
      if (record == 0 || record > record_capacity_) return;  // the page is the client's to spoil
      if (record / 64 >= set.words_.size()) set.words_.resize(record / 64 + 1);
      set.words_[record / 64] |= uint64_t{1} << (record % 64);
    });
  }
  return set;
}

std::vector<uint32_t> Limbo::Collect(PinnedHere pinned_here) {
  std::vector<uint32_t> free;
  MutexLock lock(&mu_);
  if (waiting_.empty()) return free;
  const PinnedSet pinned = ScanLocked();
  absl::erase_if(waiting_, [&](const auto& waiting) {
    const uint32_t record = waiting.first;
    if (pinned.Contains(record) || pinned_here(record)) return false;
    free.push_back(record);
    return true;
  });
  return free;
}

std::vector<std::pair<uint32_t, uint64_t>> Limbo::Waiting() const {
  MutexLock lock(&mu_);
  return {waiting_.begin(), waiting_.end()};
}

PinnedSet Limbo::Scan() const {
  if (!has_pages()) return {};
  MutexLock lock(&mu_);
  return ScanLocked();
}

}  // namespace infercache::store
