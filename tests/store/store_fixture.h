// A store with a clock that tests move, and verbs that let a test read as a story. Every fixture
// ends with the same question: is everything given back once everything is erased?

#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/fingerprint.h"
#include "common/mutex.h"
#include "server/store/store.h"

namespace infercache::store {

// An Event without the borrowed name.
struct SeenEvent {
  uint64_t sequence = 0;
  EventKind kind = EventKind::kStored;
  std::string namespace_name;
  Hash128 key_hash;
  uint64_t size_bytes = 0;
  uint64_t idle_ms = 0;
};

// Keeps every event. Thread-safe.
class RecordingObserver final : public Observer {
 public:
  void OnEvent(const Event& event) override ABSL_LOCKS_EXCLUDED(mu_);
  // What was seen since the last call, in order of the sequence numbers.
  std::vector<SeenEvent> Take() ABSL_LOCKS_EXCLUDED(mu_);
  // Runs `f` in the next event of that kind, in a thread of its own, and waits for it: what
  // somebody does who comes between that change and whatever follows it.
  void Beside(EventKind kind, std::function<void()> f) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Mutex mu_;
  EventKind beside_ ABSL_GUARDED_BY(mu_) = EventKind::kStored;
  std::function<void()> then_ ABSL_GUARDED_BY(mu_);
  std::vector<SeenEvent> seen_ ABSL_GUARDED_BY(mu_);
};

// What tests vary about a put.
struct PutOptions {
  bool overwrite = false;
  ObjectInfo info;
  std::vector<PartSpec> parts;
  Hash128 fingerprint = Fingerprint().hash();
};

// Verbs over one namespace. Values are strings here; the store copies nothing.
class NamespaceVerbs {
 public:
  explicit NamespaceVerbs(std::shared_ptr<Namespace> ns) : ns_(std::move(ns)) {}

  Namespace* operator->() const { return ns_.get(); }
  Namespace& operator*() const { return *ns_; }
  const std::shared_ptr<Namespace>& shared() const { return ns_; }
  void Release() { ns_.reset(); }

  absl::StatusOr<std::optional<WriteLease>> TryReserve(std::string_view key, uint64_t size_bytes,
                                                       const PutOptions& options = {}) const;
  // A reservation that must succeed, filled with `value`.
  WriteLease Reserve(std::string_view key, std::string_view value,
                     const PutOptions& options = {}) const;
  // Reserve, write, Commit. kExists if either step says so.
  absl::StatusOr<CommitOutcome> Put(std::string_view key, std::string_view value,
                                    const PutOptions& options = {}) const;
  // A put that must be stored. For setting a scene.
  void MustPut(std::string_view key, std::string_view value, const PutOptions& options = {}) const;

  std::optional<ReadLease> Lookup(std::string_view key,
                                  const Hash128& fingerprint = Fingerprint().hash()) const;
  // The value, or nullopt.
  std::optional<std::string> Get(std::string_view key,
                                 const Hash128& fingerprint = Fingerprint().hash()) const;
  // Without touching it.
  bool Has(std::string_view key, const Hash128& fingerprint = Fingerprint().hash()) const;
  bool Touch(std::string_view key) const;
  bool Erase(std::string_view key, const Hash128& fingerprint = Fingerprint().hash()) const;
  std::vector<std::string> Keys(std::string_view prefix = "") const;
  // Maintain() until nothing is left to do.
  void MaintainAll() const;

 private:
  std::shared_ptr<Namespace> ns_;
};

std::string ToString(std::span<const std::byte> bytes);
std::string Bytes(const ReadLease& lease);

class StoreFixture : public ::testing::Test {
 protected:
  static constexpr uint64_t kMiB = uint64_t{1} << 20;

  StoreFixture();
  // Flushes what is left in every namespace and demands that no byte, record, pin or reservation
  // survives, and that the sequence numbers of the events had no gap.
  void TearDown() override;

  // Replaces the store (which must hold no namespace yet).
  void OpenStore(const StoreOptions& options);
  NamespaceVerbs Create(const NamespaceSpec& spec);
  NamespaceVerbs Create(std::string name, uint64_t quota_bytes = kMiB, uint64_t max_objects = 0);

  // The events of all namespaces since the last call, or of one kind.
  std::vector<SeenEvent> Events();
  std::vector<SeenEvent> Events(EventKind kind);

  ManualClock clock_;
  RecordingObserver observer_;
  std::unique_ptr<Store> store_;

 private:
  void TakeEvents();
  void ExpectNoSequenceGaps();

  std::vector<SeenEvent> untaken_;
  std::vector<SeenEvent> all_;
};

// Demands that `ns`, once flushed and maintained, holds nothing.
void ExpectGivesEverythingBack(const NamespaceVerbs& ns);
// Demands that the gauges of a quiescent namespace add up.
void ExpectConsistentGauges(const NamespaceStats& stats);

}  // namespace infercache::store
