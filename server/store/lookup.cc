// Finding an object by its key: lookups and their pins, probes, erasing.

#include "common/crc32c.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {

uint32_t Namespace::Impl::Lookup(const ObjectId& id, bool touch, const UseContext& use) {
  const Hash128 hash = index_.HashOf(id.fingerprint, id.key);
  Shard& shard = ShardOf(hash);
  Removed removed;
  uint32_t found = 0;
  {
    MutexLock lock(&shard.mu);
    found = FindLive(shard, hash, id.key, &removed);
    if (found == 0) {
      ++shard.misses;
    } else {
      if (!spec_.checksums) CountHit(shard, index().record(found));  // else once it is verified
      space_->state(found).pins.fetch_add(1, std::memory_order_relaxed);
      daemon_pins_.fetch_add(1, std::memory_order_relaxed);
      if (touch) Touch(shard, found, use);
    }
  }
  Finish(removed);
  return found;
}

void Namespace::Impl::Unpin(uint32_t record) {
  RecordState& state = space_->state(record);
  daemon_pins_.fetch_sub(1, std::memory_order_relaxed);
  const bool last = state.pins.fetch_sub(1, std::memory_order_seq_cst) == 1;
  // From here on the record may be reused by others: what is read below is a hint. A record that
  // has waited in limbo for this pin is freed now, unless that takes a scan of clients' pages,
  // which can wait for the next upkeep. seq_cst on both sides: either this sees the phase that
  // Retire set, or whoever puts the record into limbo sees that the pin is gone.
  if (!last || state.phase.load(std::memory_order_seq_cst) != Phase::kLimbo) return;
  if (limbo_.TakeUnpinned(record, [this](uint32_t r) { return PinnedHere(r); })) {
    space_->FreeLimbo({&record, 1});
  } else if (limbo_.has_pages() && environment_.wake_maintenance) {
    environment_.wake_maintenance();
  }
}

bool Namespace::Impl::Verify(uint32_t number) {
  if (!spec_.checksums) return true;
  const shm::Record& record = index().record(number);
  const bool whole = Crc32c(space_->BytesOf(record)) == record.checksum;
  Removed removed;
  Shard& shard = ShardOf(record.hash());
  {
    MutexLock lock(&shard.mu);
    if (whole) {
      CountHit(shard, record);
    } else {
      ++shard.misses;
      integrity_failures_.fetch_add(1, std::memory_order_relaxed);
      if (space_->state(number).phase.load(std::memory_order_relaxed) == Phase::kVisible) {
        Retire(shard, number, EventKind::kErased, &removed);
      }
    }
  }
  Finish(removed);
  return whole;
}

void Namespace::Impl::CountHit(Shard& shard, const shm::Record& record) {
  ++shard.hits;
  shard.hit_bytes += record.size();
  shard.saved_compute_ms += static_cast<double>(record.compute_cost_ms);
}

std::optional<uint64_t> Namespace::Impl::Probe(const ObjectId& id, bool touch,
                                               const UseContext& use) {
  const Hash128 hash = index_.HashOf(id.fingerprint, id.key);
  Shard& shard = ShardOf(hash);
  Removed removed;
  std::optional<uint64_t> size;
  {
    MutexLock lock(&shard.mu);
    if (const uint32_t record = FindLive(shard, hash, id.key, &removed); record != 0) {
      size = index().record(record).size();
      if (touch) Touch(shard, record, use);
    }
  }
  Finish(removed);
  return size;
}

uint32_t Namespace::Impl::FindLive(Shard& shard, const Hash128& hash, std::string_view key,
                                   Removed* removed) {
  const uint32_t record = index_.Find(hash, key);
  if (record == 0 || !index().expired(index().record(record), now_ms())) return record;
  Retire(shard, record, EventKind::kExpired, removed);
  return 0;
}

void Namespace::Impl::Touch(Shard&, uint32_t record, const UseContext& use) {
  ranking_->Used(record, use.request, use.ends_request, policy_ms());
}

bool Namespace::Impl::Erase(const Hash128& hash, std::string_view key) {
  Shard& shard = ShardOf(hash);
  Removed removed;
  bool found = false;
  {
    MutexLock lock(&shard.mu);
    if (const uint32_t record = FindLive(shard, hash, key, &removed); record != 0) {
      Retire(shard, record, EventKind::kErased, &removed);
      found = true;
    }
  }
  Finish(removed);
  return found;
}

}  // namespace infercache::store
