#include "tests/store/store_fixture.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/match.h"

namespace infercache::store {

void RecordingObserver::OnEvent(const Event& event) {
  std::function<void()> then;
  {
    MutexLock lock(&mu_);
    seen_.push_back({event.sequence, event.kind, std::string(event.namespace_name), event.key_hash,
                     event.size_bytes, event.idle_ms});
    if (event.kind == beside_) then = std::exchange(then_, nullptr);
  }
  if (then) std::thread(then).join();
}

void RecordingObserver::Beside(EventKind kind, std::function<void()> f) {
  MutexLock lock(&mu_);
  beside_ = kind;
  then_ = std::move(f);
}

std::vector<SeenEvent> RecordingObserver::Take() {
  std::vector<SeenEvent> taken;
  {
    MutexLock lock(&mu_);
    taken.swap(seen_);
  }
  std::stable_sort(taken.begin(), taken.end(),
                   [](const SeenEvent& a, const SeenEvent& b) { return a.sequence < b.sequence; });
  return taken;
}

absl::StatusOr<std::optional<WriteLease>> NamespaceVerbs::TryReserve(
    std::string_view key, uint64_t size_bytes, const PutOptions& options) const {
  return ns_->Reserve({.id = {key, options.fingerprint},
                       .size_bytes = size_bytes,
                       .parts = options.parts,
                       .info = &options.info,
                       .overwrite = options.overwrite});
}

WriteLease NamespaceVerbs::Reserve(std::string_view key, std::string_view value,
                                   const PutOptions& options) const {
  auto reserved = TryReserve(key, value.size(), options);
  EXPECT_TRUE(reserved.ok()) << reserved.status();
  EXPECT_TRUE(reserved->has_value()) << "EXISTS";
  WriteLease lease = *std::move(*reserved);
  EXPECT_EQ(lease.bytes().size(), value.size());
  std::memcpy(lease.bytes().data(), value.data(), value.size());
  return lease;
}

absl::StatusOr<CommitOutcome> NamespaceVerbs::Put(std::string_view key, std::string_view value,
                                                  const PutOptions& options) const {
  auto reserved = TryReserve(key, value.size(), options);
  if (!reserved.ok()) return reserved.status();
  if (!reserved->has_value()) return CommitOutcome::kExists;
  WriteLease lease = *std::move(*reserved);
  std::memcpy(lease.bytes().data(), value.data(), value.size());
  return ns_->Commit(std::move(lease));
}

void NamespaceVerbs::MustPut(std::string_view key, std::string_view value,
                             const PutOptions& options) const {
  const auto outcome = Put(key, value, options);
  ASSERT_TRUE(outcome.ok()) << outcome.status() << " for '" << key << "'";
  ASSERT_EQ(*outcome, CommitOutcome::kStored) << "'" << key << "' exists";
}

std::optional<ReadLease> NamespaceVerbs::Lookup(std::string_view key,
                                                const Hash128& fingerprint) const {
  return ns_->Lookup({key, fingerprint});
}

std::optional<std::string> NamespaceVerbs::Get(std::string_view key,
                                               const Hash128& fingerprint) const {
  const auto lease = Lookup(key, fingerprint);
  if (!lease) return std::nullopt;
  EXPECT_EQ(lease->key(), key);
  return Bytes(*lease);
}

bool NamespaceVerbs::Has(std::string_view key, const Hash128& fingerprint) const {
  return ns_->Probe({key, fingerprint}, /*touch=*/false).has_value();
}

bool NamespaceVerbs::Touch(std::string_view key) const {
  return ns_->Probe({key, Fingerprint().hash()}, /*touch=*/true).has_value();
}

bool NamespaceVerbs::Erase(std::string_view key, const Hash128& fingerprint) const {
  return ns_->Erase({key, fingerprint});
}

std::vector<std::string> NamespaceVerbs::Keys(std::string_view prefix) const {
  std::vector<std::string> keys;
  for (ListEntry& entry : ns_->List(Fingerprint().hash(), prefix, "", SIZE_MAX).entries) {
    keys.push_back(std::move(entry.key));
  }
  return keys;
}

void NamespaceVerbs::MaintainAll() const {
  int rounds = 0;
  while (ns_->Maintain()) {
    ASSERT_LT(++rounds, 100'000) << "Maintain() never finishes";
  }
}

std::string ToString(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string Bytes(const ReadLease& lease) { return ToString(lease.bytes()); }

void ExpectConsistentGauges(const NamespaceStats& stats) {
  EXPECT_EQ(stats.used_bytes, stats.reserved_bytes + stats.visible_bytes + stats.limbo_bytes);
  EXPECT_LE(stats.used_bytes, stats.quota_bytes);
  EXPECT_LE(stats.used_bytes + stats.largest_free_bytes, stats.quota_bytes);
  EXPECT_LE(stats.objects, stats.max_objects);
}

void ExpectGivesEverythingBack(const NamespaceVerbs& ns) {
  ns->Flush("");
  ns.MaintainAll();
  const NamespaceStats stats = ns->Stats();
  EXPECT_EQ(stats.used_bytes, 0u);
  EXPECT_EQ(stats.reserved_bytes, 0u);
  EXPECT_EQ(stats.visible_bytes, 0u);
  EXPECT_EQ(stats.limbo_bytes, 0u);
  EXPECT_EQ(stats.objects, 0u);
  EXPECT_EQ(stats.reservations, 0u);
  EXPECT_EQ(stats.pins, 0u);
}

StoreFixture::StoreFixture() { OpenStore({.capacity_bytes = 64 * kMiB, .background = false}); }

void StoreFixture::OpenStore(const StoreOptions& options) {
  store_ = std::make_unique<Store>(options, clock_, &observer_);
}

NamespaceVerbs StoreFixture::Create(const NamespaceSpec& spec) {
  auto ns = store_->CreateNamespace(spec);
  EXPECT_TRUE(ns.ok()) << ns.status();
  return NamespaceVerbs(ns.ok() ? *std::move(ns) : nullptr);
}

NamespaceVerbs StoreFixture::Create(std::string name, uint64_t quota_bytes, uint64_t max_objects) {
  // The policy that can be foretold.
  const NamespaceSpec spec = {.name = std::move(name),
                              .quota_bytes = quota_bytes,
                              .max_objects = max_objects,
                              .policy = "lru"};
  return Create(spec);
}

void StoreFixture::TakeEvents() {
  for (SeenEvent& event : observer_.Take()) {
    untaken_.push_back(event);
    all_.push_back(std::move(event));
  }
}

std::vector<SeenEvent> StoreFixture::Events() {
  TakeEvents();
  return std::exchange(untaken_, {});
}

std::vector<SeenEvent> StoreFixture::Events(EventKind kind) {
  std::vector<SeenEvent> events = Events();
  std::erase_if(events, [kind](const SeenEvent& event) { return event.kind != kind; });
  return events;
}

void StoreFixture::ExpectNoSequenceGaps() {
  TakeEvents();
  std::map<std::string, std::vector<uint64_t>> sequences;
  for (const SeenEvent& event : all_) sequences[event.namespace_name].push_back(event.sequence);
  for (auto& [name, numbers] : sequences) {
    std::sort(numbers.begin(), numbers.end());
    for (size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(numbers[i], i + 1) << "event sequence of namespace " << name;
    }
  }
}

void StoreFixture::TearDown() {
  if (store_ == nullptr) return;
  for (const std::shared_ptr<Namespace>& ns : store_->Namespaces()) {
    SCOPED_TRACE("namespace " + ns->spec().name);
    ExpectGivesEverythingBack(NamespaceVerbs(ns));
  }
  ExpectNoSequenceGaps();
}

}  // namespace infercache::store
