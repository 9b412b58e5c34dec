// Readers of the shared index against a store under pressure, in one process: every object that a
// reader has pinned is checked, byte by byte, while others overwrite, erase, expire and evict it.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/build_kind.h"
#include "tests/store/pattern.h"
#include "tests/store/shm_client.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using shm::FindOutcome;
using shm::FindResult;
using testing::FillTagged;
using testing::kTaggedHeaderBytes;
using testing::MatchesTagged;
using testing::Mix;

constexpr uint64_t kKeys = 300;
constexpr uint32_t kSlots = 64;

// Some keys are long enough to lie in the key heap, where their storage is reused on its own.
std::string KeyOf(uint64_t tag) {
  std::string key = "key:" + std::to_string(tag) + ":";
  if (tag % 3 == 0) key.resize(200 + tag % 100, 'x');
  return key;
}

class PinStress : public ::testing::Test {
 protected:
  struct Tally {
    std::atomic<uint64_t> hits{0}, misses{0}, changing{0}, wrong{0}, puts{0}, refused{0};
  };

  void Open(uint32_t shards) {
    store_ = std::make_unique<Store>(
        StoreOptions{.capacity_bytes = uint64_t{1} << 20, .shards = shards, .background = false},
        clock_);
    auto ns = store_->CreateNamespace(
        {.name = "stress", .quota_bytes = uint64_t{1} << 20, .max_objects = 256});
    ASSERT_TRUE(ns.ok()) << ns.status();
    ns_ = *ns;
  }

  void Put(uint64_t tag, uint64_t random) {
    const uint64_t size = kTaggedHeaderBytes + random % (random % 7 == 0 ? 40'000 : 6'000);
    const std::string key = KeyOf(tag);
    const ObjectInfo info{.ttl_ms = random % 5 == 0 ? 100 + random % 400 : 0};
    auto reserved = ns_->Reserve({.id = {key, Fingerprint().hash()},
                                  .size_bytes = size,
                                  .info = &info,
                                  .overwrite = random % 3 != 0});
    if (!reserved.ok()) {
      ASSERT_EQ(reserved.status().code(), absl::StatusCode::kResourceExhausted)
          << reserved.status();
      ++tally_.refused;
      return;
    }
    if (!reserved->has_value()) return;
    WriteLease lease = **std::move(reserved);
    FillTagged(lease.bytes(), tag, random);
    if (random % 50 == 0) return;  // a writer that gives up
    const auto outcome = ns_->Commit(std::move(lease));
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    ++tally_.puts;
  }

  void Writer(uint64_t seed, int rounds) {
    for (int i = 0; i < rounds; ++i) {
      const uint64_t random = Mix(seed + static_cast<uint64_t>(i)) >> 8;
      const uint64_t tag = random % kKeys;
      switch (random / kKeys % 16) {
        case 0:
        case 1:
          ns_->Erase({KeyOf(tag), Fingerprint().hash()});
          break;
        case 2:
          clock_.AdvanceMs(10);
          ns_->Maintain();
          break;
        case 3:
          if (i % 64 == 0) ns_->Flush("key:1");
          break;
        default:
          Put(tag, Mix(random) >> 8);
      }
    }
  }

  // Holds up to kSlots pins, each for a while; checks the bytes when it gets a pin and again before
  // it lets go.
  void Reader(uint64_t seed, int rounds, ShmClient& client) {
    struct Held {
      FindResult found;
      uint64_t tag = 0;
    };
    std::vector<Held> held(kSlots);
    const auto check = [&](const Held& h) {
      const std::string_view key = client.index().key(*h.found.record);
      if (key != KeyOf(h.tag) || !MatchesTagged(client.Bytes(h.found), h.tag)) ++tally_.wrong;
    };
    const auto let_go = [&](uint32_t slot) {
      if (held[slot].found.record == nullptr) return;
      check(held[slot]);
      client.Unpin(slot);
      held[slot] = {};
    };
    for (int i = 0; i < rounds; ++i) {
      const uint64_t random = Mix(seed + static_cast<uint64_t>(i)) >> 8;
      const auto slot = static_cast<uint32_t>(random / kKeys % kSlots);
      let_go(slot);
      const Held next{client.Find(KeyOf(random % kKeys), clock_.NowMs(), slot), random % kKeys};
      switch (next.found.outcome) {
        case FindOutcome::kPinned:
          ++tally_.hits;
          check(next);
          if (random / kKeys / kSlots % 4 == 0) {
            held[slot] = next;
          } else {
            client.Unpin(slot);
          }
          break;
        case FindOutcome::kMiss:
          ++tally_.misses;
          break;
        case FindOutcome::kChanging:
          ++tally_.changing;
          break;
      }
    }
    for (uint32_t slot = 0; slot < kSlots; ++slot) let_go(slot);
  }

  // The daemon's own readers.
  void LeaseReader(uint64_t seed, int rounds) {
    std::array<std::optional<std::pair<ReadLease, uint64_t>>, 16> held;
    for (int i = 0; i < rounds; ++i) {
      const uint64_t random = Mix(seed + static_cast<uint64_t>(i)) >> 8;
      const uint64_t tag = random % kKeys;
      auto& place = held[random / kKeys % held.size()];
      if (place && !MatchesTagged(place->first.bytes(), place->second)) ++tally_.wrong;
      place.reset();
      if (auto lease = ns_->Lookup({KeyOf(tag), Fingerprint().hash()})) {
        if (lease->key() != KeyOf(tag) || !MatchesTagged(lease->bytes(), tag)) ++tally_.wrong;
        place.emplace(*std::move(lease), tag);
      }
    }
  }

  ManualClock clock_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Namespace> ns_;
  Tally tally_;
};

class PinStressOverShards : public PinStress, public ::testing::WithParamInterface<uint32_t> {};

TEST_P(PinStressOverShards, NoPinnedByteEverChanges) {
  Open(GetParam());
  constexpr int kReaders = 3;
  constexpr int kRounds = Scaled(120'000);
  std::array<std::unique_ptr<ShmClient>, kReaders> clients;
  for (auto& client : clients) client = std::make_unique<ShmClient>(ns_, kSlots);
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kReaders; ++i) {
    threads.emplace_back(
        [this, i, &clients] { Reader(1'000'000'000 * (i + 1), kRounds, *clients[i]); });
  }
  threads.emplace_back([this] { LeaseReader(77'000'000'000, kRounds / 2); });
  for (uint64_t i = 0; i < 2; ++i) {
    threads.emplace_back([this, i] { Writer(500'000'000'000 * (i + 1), kRounds / 2); });
  }
  for (std::thread& thread : threads) thread.join();

  std::cout << "  " << tally_.hits << " hits, " << tally_.misses << " misses, " << tally_.changing
            << " changing, " << tally_.puts << " puts, " << tally_.refused << " refused, "
            << ns_->Stats().evicted << " evicted" << std::endl;
  EXPECT_EQ(tally_.wrong, 0u);
  EXPECT_GT(tally_.hits, static_cast<uint64_t>(kRounds) / 20) << "hardly anything was read";
  EXPECT_GT(ns_->Stats().evicted, 100u) << "there was no pressure";
  EXPECT_LT(tally_.changing, tally_.hits / 10 + 100);
  ExpectConsistentGauges(ns_->Stats());
  for (auto& client : clients) client.reset();
  ExpectGivesEverythingBack(NamespaceVerbs(ns_));
}

INSTANTIATE_TEST_SUITE_P(Shards, PinStressOverShards, ::testing::Values(1u, 64u));

// Sessions come, pin, and die with their slots set, again and again, beside one that lives on.
TEST_F(PinStress, SessionsDieUnderPressure) {
  Open(8);
  const int rounds = Scaled(400);
  ShmClient survivor(ns_, kSlots);
  std::atomic<bool> stop{false};
  std::thread writer([this, &stop] {
    for (uint64_t i = 0; !stop.load(); ++i) Writer(1'000 * i, 100);
  });
  std::thread reader([this, &stop, &survivor] {
    for (uint64_t i = 0; !stop.load(); ++i) Reader(7'000'000 + 1'000 * i, 100, survivor);
  });
  for (int i = 0; i < rounds; ++i) {
    ShmClient mortal(ns_, kSlots);
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      const uint64_t tag = Mix(static_cast<uint64_t>(i) * kSlots + slot) % kKeys;
      const FindResult found = mortal.Find(KeyOf(tag), clock_.NowMs(), slot);
      if (found.outcome == FindOutcome::kPinned && !MatchesTagged(mortal.Bytes(found), tag))
        ++tally_.wrong;
    }
    mortal.Die();
  }
  stop = true;
  writer.join();
  reader.join();
  EXPECT_EQ(tally_.wrong, 0u);
  survivor.Die();
  ExpectGivesEverythingBack(NamespaceVerbs(ns_));
}

}  // namespace
}  // namespace infercache::store
