// What a namespace has to do with the pages of its clients: recency from their touches, their pins,
// their counters, and the memory they map.

#include <algorithm>

#include "absl/status/status.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

// Of a client that is gone: what it had touched last.
constexpr size_t kLastTouches = shm::kRingEntries;

// How long a page's rings are kept from others.
constexpr size_t kTouchesAtOnce = 1024;

// How many pins are weighed under the space's lock at once.
constexpr size_t kPinsPerLock = 1024;

}  // namespace

void Namespace::Impl::DetachPage(ClientPage& page) {
  if (!limbo_.Detach(&page)) return;
  DrainTouches(page, kLastTouches);
  AddCounters(page.TakeCounters());
  Reap();
}

size_t Namespace::Impl::DrainTouches(ClientPage& page, size_t limit) {
  uint64_t request = 0;
  const uint64_t now = policy_ms();
  return page.TakeTouches(
      limit, [&](uint64_t touch, bool begins) { TakeTouch(touch, begins, now, &request); });
}

void Namespace::Impl::DrainAllTouches(size_t limit) {
  const auto pages = limbo_.Pages();
  const uint32_t first = next_drained_.fetch_add(1, std::memory_order_relaxed);
  const uint64_t now = policy_ms();
  for (size_t i = 0; i < pages.size() && limit > 0; ++i) {
    ClientPage& page = *pages[(first + i) % pages.size()];
    uint64_t request = 0;
    // In pieces, and around a page that somebody else is taking in: puts do not wait for upkeep.
    while (limit > 0) {
      const size_t piece = std::min(limit, kTouchesAtOnce);
      const size_t taken = page.TryTakeTouches(
          piece, [&](uint64_t touch, bool begins) { TakeTouch(touch, begins, now, &request); });
      limit -= taken;
      if (taken < piece) break;
    }
  }
}

void Namespace::Impl::AdvanceClock(uint64_t since_start_ms) {
  DrainAllTouches(kTouchesAtOnce * limbo_.Pages().size());
  const uint64_t now = started_ms_ + since_start_ms;
  uint64_t before = virtual_ms_.load(std::memory_order_relaxed);
  while (before < now &&
         !virtual_ms_.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
  }
}

void Namespace::Impl::TakeTouch(uint64_t touch, bool begins_request, uint64_t now_ms,
                                uint64_t* request) {
  if (begins_request || *request == 0) *request = ranking_->NewRequest();
  // Told from its end: what comes first is its last block.
  ranking_->UsedByClient(shm::TouchedPin(touch), *request, /*ends_request=*/begins_request, now_ms);
}

Namespace::PinUse Namespace::Impl::PinsOf(const ClientPage& page) const {
  std::vector<uint64_t> pins;
  page.ForEachPin([&pins](uint64_t pin) { pins.push_back(pin); });
  PinUse use{.pins = pins.size()};
  for (std::span<const uint64_t> rest = pins; !rest.empty();) {
    const size_t count = std::min(rest.size(), kPinsPerLock);
    use.bytes += space_->PinnedBytes(rest.first(count), &use.largest_bytes);
    rest = rest.subspan(count);
  }
  return use;
}

void Namespace::Impl::AddCounters(const ClientCounters& counters) {
  MutexLock lock(&client_counters_mu_);
  client_counters_.Add(counters);
}

ClientCounters Namespace::Impl::TakeCounters() {
  for (const auto& page : limbo_.Pages()) AddCounters(page->TakeCounters());
  MutexLock lock(&client_counters_mu_);
  return client_counters_;
}

}  // namespace infercache::store
