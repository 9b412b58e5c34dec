#include "server/store/eviction/ghosts.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace infercache::store {
namespace {

constexpr size_t kLeastRing = 64;

uint64_t Mix(uint64_t hash) { return hash * 0x9e3779b97f4a7c15u; }
uint32_t High(uint64_t mixed) { return static_cast<uint32_t>(mixed >> 32); }
uint16_t Low(uint64_t mixed) { return static_cast<uint16_t>(mixed >> 16); }

}  // namespace

size_t GhostTable::FindSlot(uint64_t mixed) const {
  size_t i = Home(High(mixed));
  while (table_[i].place != 0 && (table_[i].hash_high != High(mixed) ||
                                  ring_[table_[i].place - 1].hash_low != Low(mixed))) {
    i = (i + 1) & (table_.size() - 1);
  }
  return i;
}

size_t GhostTable::SlotOfPlace(size_t place) const {
  size_t i = Home(ring_[place].hash_high);
  while (table_[i].place != place + 1) i = (i + 1) & (table_.size() - 1);
  return i;
}

void GhostTable::Add(uint64_t hash, const Ghost& ghost) {
  if (size_ == kMost) TakeOldest();
  if (span_ == ring_.size()) Rebuild();
  const uint64_t mixed = Mix(hash);
  Slot& slot = table_[FindSlot(mixed)];
  if (slot.place != 0) {
    ring_[slot.place - 1].ghost.kind = kGone;
  } else {
    ++size_;
  }
  const size_t place = Wrap(front_ + span_++);
  ring_[place] = {.hash_high = High(mixed), .hash_low = Low(mixed), .ghost = ghost};
  slot = {.hash_high = High(mixed), .place = static_cast<uint32_t>(place + 1)};
}

std::optional<Ghost> GhostTable::Take(uint64_t hash) {
  if (size_ == 0) return std::nullopt;
  const size_t slot = FindSlot(Mix(hash));
  if (table_[slot].place == 0) return std::nullopt;
  Ghost& ghost = ring_[table_[slot].place - 1].ghost;
  const Ghost taken = ghost;
  ghost.kind = kGone;
  Erase(slot);
  --size_;
  return taken;
}

Ghost GhostTable::TakeOldest() {
  while (ring_[front_].ghost.kind == kGone) {
    front_ = Wrap(front_ + 1);
    --span_;
  }
  const Ghost oldest = ring_[front_].ghost;
  Erase(SlotOfPlace(front_));
  front_ = Wrap(front_ + 1);
  --span_;
  --size_;
  return oldest;
}

// Linear probing without tombstones: what follows moves up unless that is before its home.
void GhostTable::Erase(size_t slot) {
  const size_t mask = table_.size() - 1;
  for (size_t next = (slot + 1) & mask; table_[next].place != 0; next = (next + 1) & mask) {
    if (((next - Home(table_[next].hash_high)) & mask) < ((next - slot) & mask)) continue;
    table_[slot] = table_[next];
    slot = next;
  }
  table_[slot] = {};
}

void GhostTable::Rebuild() {
  // A quarter of it is free afterwards, so that a rebuild pays for itself.
  const size_t size = std::max(kLeastRing, size_ + size_ / 4 + 1);
  std::vector<Entry> ring(size);
  size_t count = 0;
  for (size_t i = 0; i < span_; ++i) {
    const Entry& entry = ring_[Wrap(front_ + i)];
    if (entry.ghost.kind != kGone) ring[count++] = entry;
  }
  ring_ = std::move(ring);
  front_ = 0;
  span_ = count;
  table_.assign(std::bit_ceil(size + size / 2), {});
  shift_ = 32 - std::countr_zero(table_.size());
  for (size_t i = 0; i < count; ++i) {
    size_t slot = Home(ring_[i].hash_high);
    while (table_[slot].place != 0) slot = (slot + 1) & (table_.size() - 1);
    table_[slot] = {.hash_high = ring_[i].hash_high, .place = static_cast<uint32_t>(i + 1)};
  }
}

}  // namespace infercache::store
