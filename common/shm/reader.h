// How a reader takes a hit from the shared index without asking the daemon.
//
// The daemon may unlink, free and reuse any record at any time. A reader that wants to look into
// one must make that impossible first, with one store to its own slot:
//
//   reader                                     daemon, to free a record
//   g = generation (even = visible)            (1) unlink it from its bucket
//   slot := (record, g)          seq_cst       (2) generation := g + 1 (odd)      seq_cst
//   generation == g ?            seq_cst       (3) read the slots                 seq_cst
//     yes: pinned                              (4) a slot names (record, g): leave it alone
//     no:  slot := 0, search again                 none does: reuse it, generation := g + 2
//
// All four are in one total order. If the daemon's (3) comes after the reader's slot store, it sees
// the pin. If it comes before, so does (2), and the reader's second look sees g + 1. Hence a pinned
// record is constant, and plain loads of it are enough. tests/store/pin_litmus_test.cc breaks each
// half of this and watches wrong bytes come out.

#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "common/hash.h"
#include "common/shm/index_layout.h"
#include "common/shm/session_page.h"

namespace infercache::shm {

// The protocol as it must be. Tests pass mutants of it.
struct PinProtocol {
  static constexpr std::memory_order kSlotStore = std::memory_order_seq_cst;
  static constexpr bool kRecheck = true;
};

enum class FindOutcome {
  kPinned,
  kMiss,     // was not there at some moment during the call
  kChanging  // changed under the reader too often to say; ask the daemon
};

struct FindResult {
  FindOutcome outcome = FindOutcome::kMiss;
  uint32_t record_number = 0;
  const Record* record = nullptr;  // if pinned: constant until Unpin
};

// Pins `record` in `slot` if it is visible: true, and everything in it is constant until Unpin.
// REQUIRES: `slot` is free and belongs to the caller.
template <class Protocol = PinProtocol>
bool TryPin(const Record& record, uint32_t record_number, PinSlot& slot) {
  const uint64_t generation = record.generation.load(std::memory_order_acquire);
  if (generation % 2 != 0) return false;
  slot.store(MakePin(record_number, generation), Protocol::kSlotStore);
  if (!Protocol::kRecheck) return true;
  if (record.generation.load(std::memory_order_seq_cst) == generation) return true;
  slot.store(0, std::memory_order_release);
  return false;
}

inline void Unpin(PinSlot& slot) { slot.store(0, std::memory_order_release); }

// One search of a bucket chain. Sets *changed if what it saw was in flux, so that a miss proves
// nothing.
template <class Protocol = PinProtocol>
FindResult SearchChain(const IndexView& index, const Hash128& hash, std::string_view key,
                       uint64_t now_ms, PinSlot& slot, bool* changed) {
  const Bucket& head = index.bucket(index.bucket_of(hash));
  const uint32_t version = head.version.load(std::memory_order_acquire);
  const Bucket* bucket = &head;
  for (int i = 0; bucket != nullptr && i <= kMaxOverflowBuckets;
       ++i, bucket = index.next(*bucket)) {
    for (const auto& word : bucket->entries) {
      const uint64_t entry = word.load(std::memory_order_acquire);
      if (!EntryMayBe(entry, hash)) continue;
      const Record& record = index.record(EntryRecord(entry));
      if (!TryPin<Protocol>(record, EntryRecord(entry), slot)) {
        *changed = true;
        continue;
      }
      if (record.hash() == hash && index.key(record) == key && !index.expired(record, now_ms)) {
        return {FindOutcome::kPinned, EntryRecord(entry), &record};
      }
      Unpin(slot);
    }
  }
  if (head.version.load(std::memory_order_acquire) != version) *changed = true;
  return {};
}

// Finds the object with this hash and key and pins it in `slot`.
// REQUIRES: `slot` is free, belongs to the caller and lies below its page's slots_in_use.
template <class Protocol = PinProtocol>
FindResult FindAndPin(const IndexView& index, const Hash128& hash, std::string_view key,
                      uint64_t now_ms, PinSlot& slot) {
  constexpr int kAttempts = 8;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    bool changed = false;
    const FindResult result = SearchChain<Protocol>(index, hash, key, now_ms, slot, &changed);
    if (result.outcome == FindOutcome::kPinned || !changed) return result;
  }
  return {FindOutcome::kChanging, 0, nullptr};
}

}  // namespace infercache::shm
