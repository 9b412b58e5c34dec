// The batches of LocalReader.

#include <algorithm>
#include <array>
#include <memory>

#include "client/src/local_object.h"
#include "client/src/local_reader.h"
#include "common/shm/reader.h"

namespace infercache {
namespace {

using shm::FindOutcome;
using shm::FindResult;
using Settled = LocalReader::Settled;

// Keys whose cache lines are fetched at a time: enough to hide the memory's latency, few enough to
// stay in the first-level cache.
constexpr size_t kGroup = 32;
using Hashes = std::array<Hash128, kGroup>;

// Hashes a group and asks for its buckets.
void Prepare(const LocalSession& session, std::span<const std::string_view> group, Hashes& hashes) {
  const shm::IndexView& index = session.index();
  for (size_t i = 0; i < group.size(); ++i) {
    hashes[i] = session.HashOf(group[i]);
    __builtin_prefetch(&index.bucket(index.bucket_of(hashes[i])));
  }
}

// Asks for the records that the buckets name. A record spans two lines, of 128 in all.
void PrefetchRecords(const LocalSession& session, std::span<const Hash128> hashes) {
  const shm::IndexView& index = session.index();
  for (const Hash128& hash : hashes) {
    const shm::Bucket& bucket = index.bucket(index.bucket_of(hash));
    for (const auto& word : bucket.entries) {
      const uint64_t entry = word.load(std::memory_order_relaxed);
      if (!shm::EntryMayBe(entry, hash)) continue;
      const char* record = reinterpret_cast<const char*>(&index.record(shm::EntryRecord(entry)));
      __builtin_prefetch(record);
      __builtin_prefetch(record + sizeof(shm::Record) - 1);
    }
  }
}

// Reports uses if the lane still is of the session in which they were pinned.
void Report(LocalLanes::Lane& lane, const std::shared_ptr<LocalSession>& session,
            std::span<const uint64_t> touches) {
  if (lane && lane.shared_session() == session) lane.TouchAll(touches);
}

}  // namespace

Settled LocalReader::GetInto(std::span<const std::string_view> keys,
                             std::span<const std::span<std::byte>> destinations,
                             std::span<GetIntoResult> results, std::vector<size_t>* left) {
  Lane lane = lanes_.Take();
  if (!lane) return Settled::kNoSession;
  const std::shared_ptr<LocalSession> session = lane.shared_session();
  const uint64_t now_ms = NowMs();
  std::vector<uint64_t> touches(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const Settled settled =
        lane ? CopyOne(lane, keys[i], destinations[i], now_ms, &results[i], &touches[i])
             : Settled::kNoSession;
    if (settled == Settled::kNoSession) return settled;
    if (settled == Settled::kAskDaemon) left->push_back(i);
  }
  Report(lane, session, touches);
  return left->empty() ? Settled::kDecided : Settled::kAskDaemon;
}

Settled LocalReader::Get(std::span<const std::string_view> keys, Copies copies,
                         std::span<GetResult> results, std::vector<size_t>* left) {
  Lane lane = lanes_.Take();
  if (!lane) return Settled::kNoSession;
  const std::shared_ptr<LocalSession> session = lane.shared_session();
  const uint64_t now_ms = NowMs();
  std::vector<uint64_t> touches(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const Settled settled = lane ? ViewOne(lane, keys[i], copies, now_ms, &results[i], &touches[i])
                                 : Settled::kNoSession;
    if (settled == Settled::kNoSession) return settled;
    if (settled == Settled::kAskDaemon) left->push_back(i);
  }
  Report(lane, session, touches);
  return left->empty() ? Settled::kDecided : Settled::kAskDaemon;
}

Settled LocalReader::Match(std::span<const std::string_view> keys, bool touch,
                           std::vector<bool>* present, std::vector<uint64_t>* size_bytes,
                           std::vector<size_t>* left) {
  Lane lane = lanes_.Take();
  if (!lane || !lane.session().alive()) return Settled::kNoSession;
  const LocalSession& session = lane.session();
  shm::PinSlot& slot = lane.slot();
  const uint64_t now_ms = NowMs();
  std::vector<uint64_t> touches(touch ? keys.size() : 0);
  Hashes hashes, next;
  Prepare(session, keys.first(std::min(kGroup, keys.size())), hashes);
  for (size_t begin = 0; begin < keys.size(); begin += kGroup) {
    const size_t count = std::min(kGroup, keys.size() - begin);
    PrefetchRecords(session, std::span(hashes).first(count));
    const auto rest = keys.subspan(begin + count);
    Prepare(session, rest.first(std::min(kGroup, rest.size())), next);
    for (size_t i = 0; i < count; ++i) {
      const size_t k = begin + i;
      const FindResult found = shm::FindAndPin(session.index(), hashes[i], keys[k], now_ms, slot);
      if (found.outcome == FindOutcome::kChanging) left->push_back(k);
      if (found.outcome != FindOutcome::kPinned) continue;
      (*present)[k] = true;
      if (size_bytes != nullptr) (*size_bytes)[k] = found.record->size();
      if (touch) touches[k] = slot.load(std::memory_order_relaxed);
      shm::Unpin(slot);
    }
    std::swap(hashes, next);
  }
  if (!session.alive()) return Settled::kNoSession;
  if (touch) lane.TouchAll(touches);
  return left->empty() ? Settled::kDecided : Settled::kAskDaemon;
}

}  // namespace infercache
