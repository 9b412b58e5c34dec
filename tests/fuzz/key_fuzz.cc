// Random operations on a small namespace: keys, fingerprints, sizes and part descriptions come from
// the fuzzer's bytes. After each one the contents must equal a map's, and the books must balance.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/fingerprint.h"
#include "common/limits.h"
#include "server/store/store.h"
#include "tests/fuzz/require.h"

namespace infercache::store {
namespace {

constexpr uint64_t kQuota = 64 * 1024;

struct Name {
  std::string key;
  Hash128 fingerprint;
  bool operator<(const Name& other) const {
    return std::tie(key, fingerprint.lo, fingerprint.hi) <
           std::tie(other.key, other.fingerprint.lo, other.fingerprint.hi);
  }
};

struct Object {
  std::string value;
  std::vector<PartSpec> parts;
};

struct HashLess {
  bool operator()(const Hash128& a, const Hash128& b) const {
    return std::tie(a.lo, a.hi) < std::tie(b.lo, b.hi);
  }
};

// Single-threaded here: what happened since the last Take, in order.
class Recorder final : public Observer {
 public:
  void OnEvent(const Event& event) override { events_.push_back(event); }
  std::vector<Event> Take() { return std::exchange(events_, {}); }

 private:
  std::vector<Event> events_;
};

class Session {
 public:
  explicit Session(FuzzedDataProvider& data)
      : data_(data),
        store_({.capacity_bytes = kQuota,
                .chunk_bytes = kQuota / (1 + data.ConsumeIntegralInRange(0, 1)),
                .shards = 4,
                .background = false},
               clock_, &events_) {
    NamespaceSpec spec;
    spec.name = "fuzz";
    spec.quota_bytes = kQuota;
    spec.max_objects = 32;
    auto created = store_.CreateNamespace(spec);
    REQUIRE(created.ok());
    ns_ = *std::move(created);
  }

  void Run() {
    while (data_.remaining_bytes() > 0) {
      switch (data_.ConsumeIntegralInRange(0, 7)) {
        case 0:
        case 1:
          Put();
          break;
        case 2:
          Lookup();
          break;
        case 3:
          Erase();
          break;
        case 4:
          Flush();
          break;
        case 5:
          List();
          break;
        case 6:
          ns_->Maintain();
          Learn();
          break;
        case 7:
          held_.clear();
          break;
      }
      Check();
    }
    held_.clear();
    ns_->Flush("");
    while (ns_->Maintain()) {
    }
    Learn();
    REQUIRE(objects_.empty());
    REQUIRE(ns_->Stats().used_bytes == 0);
  }

 private:
  Name AnyName() {
    FingerprintEntries entries;
    for (int i = data_.ConsumeIntegralInRange(0, 2); i > 0; --i) {
      entries.emplace_back(data_.ConsumeRandomLengthString(8), data_.ConsumeRandomLengthString(8));
    }
    const auto fingerprint = Fingerprint::Make(std::move(entries));
    std::string key = data_.ConsumeRandomLengthString(64);
    if (data_.ConsumeBool())
      key.resize(data_.ConsumeIntegralInRange<size_t>(0, kMaxKeyBytes + 1), 'k');
    return {std::move(key), fingerprint.ok() ? fingerprint->hash() : Fingerprint().hash()};
  }

  std::vector<PartSpec> AnyParts() {
    std::vector<PartSpec> parts(data_.ConsumeIntegralInRange<size_t>(0, 5));
    for (PartSpec& part : parts) {
      part.dtype = static_cast<DataType>(data_.ConsumeIntegralInRange<int>(0, kLastDataType + 1));
      part.shape.resize(data_.ConsumeIntegralInRange<size_t>(0, kMaxRank + 1));
      part.size_bytes = ElementSize(part.dtype);
      for (uint64_t& dimension : part.shape) {
        dimension = data_.ConsumeBool() ? data_.ConsumeIntegralInRange<uint64_t>(0, 9)
                                        : data_.ConsumeIntegral<uint64_t>();
        part.size_bytes *= dimension;
      }
      if (data_.ConsumeIntegralInRange(0, 15) == 0)
        part.size_bytes = data_.ConsumeIntegral<uint64_t>();
    }
    return parts;
  }

  void Put() {
    const Name name = AnyName();
    Object object{"", AnyParts()};
    ObjectInfo info;
    info.kind = static_cast<ObjectKind>(data_.ConsumeIntegralInRange<int>(0, kLastObjectKind + 1));
    info.class_id = data_.ConsumeIntegral<uint8_t>() % (kMaxClassId + 2);
    info.compute_cost_ms = data_.ConsumeFloatingPoint<float>();
    PutSpec spec;
    spec.id = {name.key, name.fingerprint};
    for (const PartSpec& part : object.parts) spec.size_bytes += part.size_bytes;
    if (object.parts.empty())
      spec.size_bytes = data_.ConsumeIntegralInRange<uint64_t>(0, kQuota + 1);
    spec.parts = object.parts;
    spec.info = &info;
    spec.overwrite = data_.ConsumeBool();
    auto reserved = ns_->Reserve(spec);
    Learn();
    if (!reserved.ok()) {
      REQUIRE(reserved.status().code() == absl::StatusCode::kInvalidArgument ||
              reserved.status().code() == absl::StatusCode::kResourceExhausted);
      return;
    }
    REQUIRE(!name.key.empty() && name.key.size() <= kMaxKeyBytes);
    if (!reserved->has_value()) {
      REQUIRE(!spec.overwrite && objects_.count(name) == 1);
      return;
    }
    WriteLease lease = **std::move(reserved);
    REQUIRE(lease.bytes().size() == spec.size_bytes && spec.size_bytes <= kQuota);
    object.value.assign(spec.size_bytes, static_cast<char>(next_value_++));
    std::copy_n(object.value.begin(), object.value.size(),
                reinterpret_cast<char*>(lease.bytes().data()));
    if (data_.ConsumeIntegralInRange(0, 7) == 0) return;  // abandoned
    const auto outcome = ns_->Commit(std::move(lease));
    REQUIRE(outcome.ok() && *outcome == CommitOutcome::kStored);
    Learn(&name);
    objects_[name] = std::move(object);
  }

  void Lookup() {
    const Name name = AnyName();
    const auto expected = objects_.find(name);
    auto lease = ns_->Lookup({name.key, name.fingerprint});
    REQUIRE(lease.has_value() == (expected != objects_.end()));
    if (!lease) return;
    Compare(*lease, name, expected->second);
    if (held_.size() < 4) held_.push_back({*std::move(lease), name, expected->second});
  }

  void Erase() {
    const Name name = AnyName();
    const bool expected = objects_.count(name) == 1;
    REQUIRE(ns_->Erase({name.key, name.fingerprint}) == expected);
    Learn();
    REQUIRE(objects_.count(name) == 0);
  }

  void Flush() {
    const std::string prefix = data_.ConsumeRandomLengthString(4);
    const auto expected =
        static_cast<uint64_t>(std::count_if(objects_.begin(), objects_.end(), [&](const auto& o) {
          return o.first.key.starts_with(prefix);
        }));
    REQUIRE(ns_->Flush(prefix) == expected);
    Learn();
  }

  void List() {
    const Hash128 fingerprint = AnyName().fingerprint;
    const std::string prefix = data_.ConsumeRandomLengthString(4);
    const std::string after = data_.ConsumeRandomLengthString(4);
    const auto limit = data_.ConsumeIntegralInRange<size_t>(0, 40);
    std::vector<std::string> expected;
    for (const auto& [name, object] : objects_) {  // in order of the key
      if (name.fingerprint == fingerprint && name.key.starts_with(prefix) && name.key > after) {
        expected.push_back(name.key);
      }
    }
    const ListPage page = ns_->List(fingerprint, prefix, after, limit);
    REQUIRE(page.more == (expected.size() > limit));
    REQUIRE(page.entries.size() == std::min(limit, expected.size()));
    for (size_t i = 0; i < page.entries.size(); ++i) REQUIRE(page.entries[i].key == expected[i]);
  }

  // Takes out of the map what the events say is gone. `stored` names what was just committed.
  void Learn(const Name* stored = nullptr) {
    for (const Event& event : events_.Take()) {
      REQUIRE(event.sequence == ++last_sequence_);
      if (event.kind == EventKind::kStored) {
        REQUIRE(stored != nullptr);
        const auto known = name_of_hash_.emplace(event.key_hash, *stored).first;
        REQUIRE(known->second.key == stored->key &&
                known->second.fingerprint == stored->fingerprint);
        continue;
      }
      const auto name = name_of_hash_.find(event.key_hash);
      REQUIRE(name != name_of_hash_.end());
      REQUIRE(objects_.erase(name->second) == 1);
    }
  }

  struct Held {
    ReadLease lease;
    Name name;
    Object object;
  };

  static void Compare(const ReadLease& lease, const Name& name, const Object& object) {
    const auto bytes = lease.bytes();
    REQUIRE(lease.key() == name.key);
    REQUIRE(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) ==
            object.value);
    REQUIRE(lease.parts() == object.parts);
  }

  void Check() {
    const NamespaceStats s = ns_->Stats();
    REQUIRE(s.used_bytes == s.reserved_bytes + s.visible_bytes + s.limbo_bytes);
    REQUIRE(s.used_bytes <= s.quota_bytes);
    REQUIRE(s.objects == objects_.size());
    REQUIRE(s.reserved_bytes == 0 && s.pins == held_.size());
    for (const Held& held : held_) Compare(held.lease, held.name, held.object);
  }

  FuzzedDataProvider& data_;
  ManualClock clock_;
  Recorder events_;
  Store store_;
  std::shared_ptr<Namespace> ns_;
  std::map<Name, Object> objects_;
  std::map<Hash128, Name, HashLess> name_of_hash_;
  std::vector<Held> held_;
  unsigned next_value_ = 1;
  uint64_t last_sequence_ = 0;
};

}  // namespace
}  // namespace infercache::store

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  infercache::store::Session(data).Run();
  return 0;
}
