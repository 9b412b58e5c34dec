// What the daemon knows of a record beyond what readers may see. Lies in private memory.

#pragma once

#include <atomic>
#include <cstdint>

namespace infercache::store {

// kFree -> kReserved -> kVisible -> kLimbo -> kFree; or kReserved -> kFree (abort, or the commit
// lost), maybe by way of kQuarantined, while a writer that has lost its reservation may still
// write.
enum class Phase : uint8_t { kFree, kReserved, kQuarantined, kVisible, kLimbo };

struct RecordState {
  // Of the last use, see RecencyClock: written under the shard's lock or the ranking's, there also
  // when the record has gone meanwhile; read without them by whoever looks for cold neighbours, as
  // a hint.
  std::atomic<uint64_t> stamp{0};

  // The daemon's own pins. Raised only under the shard's lock while visible; dropped at any time.
  // While the record is free, when there are none, the next free one: guarded by Space's lock.
  std::atomic<uint32_t> pins{0};

  std::atomic<uint16_t> shard{0};  // constant from allocation to free
  std::atomic<Phase> phase{Phase::kFree};
};
static_assert(sizeof(RecordState) == 16);

// Stamps for uses: strictly increasing over the whole namespace, with the time of use in the upper
// bits. Thread-safe.
class RecencyClock {
 public:
  static constexpr int kSequenceBits = 20;

  uint64_t Next(uint64_t now_ms) { return NextRun(now_ms, 1); }
  // The first of so many, all of which are the caller's.
  uint64_t NextRun(uint64_t now_ms, uint32_t count) {
    const uint64_t floor = now_ms << kSequenceBits;
    uint64_t last = last_.load(std::memory_order_relaxed);
    uint64_t first;
    do {
      first = last < floor ? floor : last + 1;
    } while (!last_.compare_exchange_weak(last, first + count - 1, std::memory_order_relaxed));
    return first;
  }
  static uint64_t TimeMs(uint64_t stamp) { return stamp >> kSequenceBits; }

 private:
  std::atomic<uint64_t> last_{0};
};

}  // namespace infercache::store
