// A namespace against a model: a map of what must be there. Random sequences of every verb, with
// leases held across them; after each step the contents, the answers and the books must agree.
//
// The model does not predict whom the policy evicts: it learns that from the events, which name
// objects by their hashes, and checks everything else itself.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/part_table.h"
#include "tests/store/pattern.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using testing::FillPattern;
using testing::MatchesPattern;

constexpr uint64_t kTickMs = 100;
constexpr uint64_t kQuota = 256 * 1024;

struct HashLess {
  bool operator()(const Hash128& a, const Hash128& b) const {
    return std::pair(a.lo, a.hi) < std::pair(b.lo, b.hi);
  }
};

rc::Gen<std::string> AnyPolicy() {
  return rc::gen::element<std::string>("auto", "lru", "fifo", "lfu", "s3fifo", "arc");
}

class Model {
 public:
  Model(uint32_t shards, uint64_t chunk_bytes, std::string policy) {
    store_ = std::make_unique<Store>(StoreOptions{.capacity_bytes = kQuota,
                                                  .chunk_bytes = chunk_bytes,
                                                  .shards = shards,
                                                  .background = false},
                                     clock_, &observer_);
    auto ns = store_->CreateNamespace(
        {.name = "model", .quota_bytes = kQuota, .max_objects = 64, .policy = std::move(policy)});
    RC_ASSERT(ns.ok());
    ns_ = *ns;
  }

  void Step() {
    switch (*rc::gen::weightedElement<int>({{6, 0},
                                            {3, 1},
                                            {3, 2},
                                            {2, 3},
                                            {5, 4},
                                            {2, 5},
                                            {2, 6},
                                            {2, 7},
                                            {1, 8},
                                            {1, 9},
                                            {2, 10},
                                            {1, 11},
                                            {1, 12}})) {
      case 0:
        return Put();
      case 1:
        return OpenReservation();
      case 2:
        return CommitOpen();
      case 3:
        return AbortOpen();
      case 4:
        return Lookup();
      case 5:
        return DropLease();
      case 6:
        return Erase();
      case 7:
        return Probe();
      case 8:
        return Flush();
      case 9:
        return List();
      case 10:
        return Advance();
      case 11:
        RC_ASSERT(ns_->SetPolicy(*AnyPolicy()).ok());
        return;
      default:
        return Maintain();
    }
  }

  // After every step.
  void Check() {
    const NamespaceStats s = ns_->Stats();
    RC_ASSERT(s.used_bytes == s.reserved_bytes + s.visible_bytes + s.limbo_bytes);
    RC_ASSERT(s.used_bytes <= s.quota_bytes);
    RC_ASSERT(s.objects == objects_.size());
    RC_ASSERT(s.reservations == open_.size());
    RC_ASSERT(s.pins == held_.size());
    RC_ASSERT(s.visible_bytes >= LiveBytes());
    for (const Held& held : held_) RC_ASSERT(MatchesPattern(held.lease.bytes(), held.seed));
  }

  void Finish() {
    for (const auto& [key, object] : objects_) {
      if (!MayBeExpired(object))
        RC_ASSERT(ns_->Probe({key, Fingerprint().hash()}, false).has_value());
    }
    open_.clear();
    held_.clear();
    ns_->Flush("");
    while (ns_->Maintain()) {
    }
    TakeEvents();
    const NamespaceStats s = ns_->Stats();
    RC_ASSERT(objects_.empty());
    RC_ASSERT(s.used_bytes == 0u);
    RC_ASSERT(s.objects == 0u);
    RC_ASSERT(s.pins == 0u);
    RC_ASSERT(s.largest_free_bytes == ns_->arena_chunks().front().size());
  }

 private:
  struct Object {
    uint64_t seed = 0;
    uint64_t size = 0;
    uint64_t expires_ms = 0;  // 0 = never; the store may be up to a tick later
    std::vector<PartSpec> parts;
    Hash128 hash;
  };
  struct Open {
    std::string key;
    bool overwrite = false;
    uint64_t ttl_ms = 0;
    Object object;
    WriteLease lease;
  };
  struct Held {
    uint64_t seed = 0;
    ReadLease lease;
  };

  static std::string AnyKey() {
    const int n = *rc::gen::inRange(0, 24);
    std::string key = (n % 2 == 0 ? "even:" : "odd:") + std::to_string(n);
    if (n % 5 == 0) key.resize(100, 'x');  // lies in the key heap
    return key;
  }

  bool Expired(const Object& object) const {
    return object.expires_ms != 0 && clock_.NowMs() >= object.expires_ms + kTickMs;
  }
  // Within the tick in which it expires, either answer is right.
  bool MayBeExpired(const Object& object) const {
    return object.expires_ms != 0 && clock_.NowMs() >= object.expires_ms;
  }
  uint64_t LiveBytes() const {
    uint64_t bytes = 0;
    for (const auto& [key, object] : objects_) bytes += object.size;
    return bytes;
  }

  // nullptr if the key must be a miss.
  const Object* Find(const std::string& key) const {
    const auto it = objects_.find(key);
    return it == objects_.end() || Expired(it->second) ? nullptr : &it->second;
  }

  // Removes what the events say is gone. Stored ones are the caller's: he knows the key.
  std::optional<Hash128> TakeEvents() {
    std::optional<Hash128> stored;
    for (const SeenEvent& event : observer_.Take()) {
      RC_ASSERT(event.sequence == ++last_sequence_);
      if (event.kind == EventKind::kStored) {
        RC_ASSERT(!stored.has_value());
        stored = event.key_hash;
        continue;
      }
      const auto key = key_of_hash_.find(event.key_hash);
      RC_ASSERT(key != key_of_hash_.end());
      const auto object = objects_.find(key->second);
      RC_ASSERT(object != objects_.end());
      RC_ASSERT(event.size_bytes == object->second.size);
      if (event.kind == EventKind::kExpired) RC_ASSERT(MayBeExpired(object->second));
      if (event.kind == EventKind::kEvicted) {
        for (const Held& held : held_)
          RC_ASSERT(held.lease.key() != object->first || held.seed != object->second.seed);
      }
      objects_.erase(object);
    }
    return stored;
  }

  // A reservation with its bytes written, or nullopt if the answer was EXISTS or no room.
  std::optional<Open> TryReserve();
  // Commits it; what must happen follows from the rules of first commit and overwrite.
  void Publish(Open open);

  void Put() {
    if (auto open = TryReserve()) Publish(*std::move(open));
  }
  void OpenReservation() {
    if (open_.size() >= 4) return;
    if (auto open = TryReserve()) open_.push_back(*std::move(open));
  }
  void CommitOpen() {
    if (open_.empty()) return;
    const auto i = *rc::gen::inRange<size_t>(0, open_.size());
    Open open = std::move(open_[i]);
    open_.erase(open_.begin() + static_cast<ptrdiff_t>(i));
    Publish(std::move(open));
  }
  void AbortOpen() {
    if (open_.empty()) return;
    open_.erase(open_.begin() +
                *rc::gen::inRange<ptrdiff_t>(0, static_cast<ptrdiff_t>(open_.size())));
    RC_ASSERT(!TakeEvents().has_value());
  }
  void Lookup() {
    const std::string key = AnyKey();
    const Object* expected = Find(key);
    auto lease = ns_->Lookup({key, Fingerprint().hash()});
    if (expected == nullptr) {
      RC_ASSERT(!lease.has_value());
    } else if (!MayBeExpired(*expected)) {
      RC_ASSERT(lease.has_value());
    }
    if (lease) {
      RC_ASSERT(lease->key() == key);
      RC_ASSERT(lease->bytes().size() == expected->size);
      RC_ASSERT(MatchesPattern(lease->bytes(), expected->seed));
      RC_ASSERT(lease->parts() == expected->parts);
      if (held_.size() < 6) held_.push_back({expected->seed, *std::move(lease)});
    }
    TakeEvents();
  }
  void DropLease() {
    if (held_.empty()) return;
    held_.erase(held_.begin() +
                *rc::gen::inRange<ptrdiff_t>(0, static_cast<ptrdiff_t>(held_.size())));
  }
  void Erase() {
    const std::string key = AnyKey();
    const Object* expected = Find(key);
    const bool may_be_expired = expected != nullptr && MayBeExpired(*expected);
    const bool was_there = expected != nullptr;
    const bool erased = ns_->Erase({key, Fingerprint().hash()});
    if (!was_there) RC_ASSERT(!erased);
    if (was_there && !may_be_expired) RC_ASSERT(erased);
    TakeEvents();
    RC_ASSERT(objects_.count(key) == 0);
  }
  void Probe() {
    const std::string key = AnyKey();
    const Object* expected = Find(key);
    const auto size = ns_->Probe({key, Fingerprint().hash()}, *rc::gen::arbitrary<bool>());
    if (expected == nullptr) RC_ASSERT(!size.has_value());
    if (size.has_value()) RC_ASSERT(*size == expected->size);
    if (expected != nullptr && !MayBeExpired(*expected)) RC_ASSERT(size.has_value());
    TakeEvents();
  }
  void Flush() {
    const std::string prefix = *rc::gen::element<std::string>("even:", "odd:1", "absent");
    ns_->Flush(prefix);
    TakeEvents();
    for (const auto& [key, object] : objects_) RC_ASSERT(!key.starts_with(prefix));
  }
  void List() {
    std::map<std::string, uint64_t> listed;
    std::string last;
    for (const ListEntry& entry : ns_->List(Fingerprint().hash(), "", "", 1'000).entries) {
      RC_ASSERT(last < entry.key);
      last = entry.key;
      const Object* expected = Find(entry.key);
      RC_ASSERT(expected != nullptr);
      RC_ASSERT(entry.size_bytes == expected->size);
      RC_ASSERT(*DecodePartTable(entry.part_table) == expected->parts);
      listed.emplace(entry.key, entry.size_bytes);
    }
    for (const auto& [key, object] : objects_) {
      if (!MayBeExpired(object)) RC_ASSERT(listed.count(key) == 1u);
    }
  }
  void Maintain() {
    ns_->Maintain();
    RC_ASSERT(!TakeEvents().has_value());
  }
  void Advance() { clock_.AdvanceMs(*rc::gen::element<uint64_t>(1, 50, 100, 1'000)); }

  ManualClock clock_;
  RecordingObserver observer_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Namespace> ns_;

  std::map<std::string, Object> objects_;
  std::map<Hash128, std::string, HashLess> key_of_hash_;
  std::vector<Open> open_;
  std::vector<Held> held_;
  uint64_t next_seed_ = 1;
  uint64_t last_sequence_ = 0;
};

std::optional<Model::Open> Model::TryReserve() {
  const std::string key = AnyKey();
  const bool overwrite = *rc::gen::arbitrary<bool>();
  const auto ttl_ms = *rc::gen::weightedElement<uint64_t>({{5, 0}, {1, 1}, {1, 150}, {1, 2'000}});
  Object object;
  object.seed = next_seed_++;
  object.size =
      *rc::gen::oneOf(rc::gen::inRange<uint64_t>(0, 200), rc::gen::inRange<uint64_t>(1, 60'000));
  if (object.size > 0 && *rc::gen::inRange(0, 3) == 0) {
    const uint64_t first = *rc::gen::inRange<uint64_t>(0, object.size + 1);
    object.parts = {{DataType::kUInt8, {first}, first},
                    {DataType::kBytes, {}, object.size - first}};
  }
  ObjectInfo info{.kind = ObjectKind::kKv, .ttl_ms = ttl_ms};
  if (*rc::gen::arbitrary<bool>()) info.parent_key = AnyKey();
  const Object* visible = Find(key);
  const bool may_be_expired = visible != nullptr && MayBeExpired(*visible);
  auto reserved = ns_->Reserve({.id = {key, Fingerprint().hash()},
                                .size_bytes = object.size,
                                .parts = object.parts,
                                .info = &info,
                                .overwrite = overwrite});
  RC_ASSERT(!TakeEvents().has_value());
  if (!reserved.ok()) {
    RC_ASSERT(reserved.status().code() == absl::StatusCode::kResourceExhausted);
    return std::nullopt;
  }
  if (!reserved->has_value()) {
    RC_ASSERT(!overwrite);
    RC_ASSERT(visible != nullptr);
    return std::nullopt;
  }
  if (!overwrite && !may_be_expired) RC_ASSERT(visible == nullptr);
  RC_ASSERT((*reserved)->bytes().size() == object.size);
  FillPattern((*reserved)->bytes(), object.seed);
  return Open{key, overwrite, ttl_ms, object, **std::move(reserved)};
}

void Model::Publish(Open open) {
  RC_ASSERT(MatchesPattern(open.lease.bytes(), open.object.seed));
  const Object* visible = Find(open.key);
  const bool may_be_expired = visible != nullptr && MayBeExpired(*visible);
  const auto outcome = ns_->Commit(std::move(open.lease));
  RC_ASSERT(outcome.ok());
  if (*outcome == CommitOutcome::kExists) {
    RC_ASSERT(visible != nullptr && !open.overwrite);
    RC_ASSERT(!TakeEvents().has_value());
    return;
  }
  RC_ASSERT(visible == nullptr || open.overwrite || may_be_expired);
  const auto stored = TakeEvents();
  RC_ASSERT(stored.has_value());
  const auto known = key_of_hash_.emplace(*stored, open.key);
  RC_ASSERT(known.first->second == open.key);
  open.object.expires_ms = open.ttl_ms == 0 ? 0 : clock_.NowMs() + open.ttl_ms;
  open.object.hash = *stored;
  RC_ASSERT(objects_.emplace(open.key, open.object).second);
}

RC_GTEST_PROP(NamespaceModel, EveryStepAgrees, ()) {
  Model model(*rc::gen::element<uint32_t>(1, 4, 64),
              *rc::gen::element<uint64_t>(uint64_t{kQuota}, kQuota / 4), *AnyPolicy());
  const auto steps = *rc::gen::inRange(1, 150);
  for (int step = 0; step < steps; ++step) {
    model.Step();
    model.Check();
  }
  model.Finish();
}

}  // namespace
}  // namespace infercache::store
