// Eight writers of objects of random sizes, together far above the capacity, beside a sampler: at
// no instant do reserved, visible and limbo bytes exceed the quota.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/build_kind.h"
#include "tests/store/pattern.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using testing::FillTagged;
using testing::kTaggedHeaderBytes;
using testing::MatchesTagged;
using testing::Mix;

constexpr uint64_t kKeys = 2'000;
constexpr uint64_t kQuota = uint64_t{8} << 20;

struct Tally {
  std::atomic<uint64_t> put_bytes{0}, refused{0}, wrong{0}, hits{0};
};

std::string KeyOf(uint64_t tag) { return "key:" + std::to_string(tag); }

// Log-uniform from 16 bytes to 512 KiB.
uint64_t SizeOf(uint64_t random) {
  const uint64_t magnitude = uint64_t{16} << (random % 15);
  return kTaggedHeaderBytes + magnitude + (random >> 8) % magnitude;
}

void PutAndRead(Namespace& ns, uint64_t seed, int rounds, Tally& tally) {
  std::vector<WriteLease> open;  // reservations that stay open for a while
  std::vector<std::pair<ReadLease, uint64_t>> held;
  for (int i = 0; i < rounds; ++i) {
    const uint64_t random = Mix(seed + static_cast<uint64_t>(i)) >> 8;
    const uint64_t tag = random % kKeys;
    const std::string key = KeyOf(tag);
    const ObjectId id{key, Fingerprint().hash()};
    auto reserved =
        ns.Reserve({.id = id, .size_bytes = SizeOf(Mix(random)), .overwrite = random % 2 == 0});
    if (!reserved.ok()) {
      ASSERT_EQ(reserved.status().code(), absl::StatusCode::kResourceExhausted)
          << reserved.status();
      ++tally.refused;
      open.clear();
      held.clear();
    } else if (reserved->has_value()) {
      WriteLease lease = **std::move(reserved);
      FillTagged(lease.bytes(), tag, random);
      if (random % 11 == 0) {
        if (open.size() < 3) open.push_back(std::move(lease));  // else: abandoned
      } else {
        tally.put_bytes += lease.bytes().size();
        ASSERT_TRUE(ns.Commit(std::move(lease)).ok());
      }
    }
    if (auto hit = ns.Lookup({KeyOf(Mix(random) % kKeys), Fingerprint().hash()})) {
      ++tally.hits;
      if (!MatchesTagged(hit->bytes(), Mix(random) % kKeys)) ++tally.wrong;
      if (held.size() < 4) held.emplace_back(*std::move(hit), Mix(random) % kKeys);
    }
    if (random % 13 == 0) {
      for (const auto& [lease, its_tag] : held) {
        if (!MatchesTagged(lease.bytes(), its_tag)) ++tally.wrong;
      }
      held.clear();
    }
    if (random % 17 == 0) open.clear();
    if (random % 19 == 0) ns.Erase(id);
    if (random % 101 == 0) ns.Maintain();
  }
}

class QuotaStress : public ::testing::TestWithParam<uint64_t> {};  // bytes per chunk

TEST_P(QuotaStress, UsedNeverExceedsTheQuota) {
  const MonotonicClock clock;
  Store store({.capacity_bytes = kQuota, .chunk_bytes = GetParam(), .background = true}, clock);
  auto created = store.CreateNamespace({.name = "quota", .quota_bytes = kQuota});
  ASSERT_TRUE(created.ok()) << created.status();
  const NamespaceVerbs ns(*created);
  const uint64_t capacity = store.options().capacity_bytes;
  ASSERT_LE(ns->Stats().quota_bytes, capacity);

  std::atomic<bool> stop{false};
  uint64_t samples = 0;
  uint64_t peak = 0;
  std::thread sampler([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      const NamespaceStats s = ns->Stats();
      ++samples;
      peak = std::max(peak, s.used_bytes);
      // The three gauges of one call belong to one moment.
      ASSERT_LE(s.reserved_bytes + s.visible_bytes + s.limbo_bytes, s.quota_bytes);
      ASSERT_EQ(s.used_bytes, s.reserved_bytes + s.visible_bytes + s.limbo_bytes);
      ASSERT_LE(s.used_bytes + s.largest_free_bytes, s.quota_bytes);
      ASSERT_LE(s.objects + s.reservations, s.max_objects);
    }
  });
  Tally tally;
  std::vector<std::thread> writers;
  for (uint64_t t = 0; t < 8; ++t) {
    writers.emplace_back([&ns, &tally, t] { PutAndRead(*ns, t << 40, Scaled(6'000), tally); });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  sampler.join();

  std::cout << "  " << (tally.put_bytes >> 20) << " MiB put through " << (kQuota >> 20) << " MiB, "
            << tally.hits << " hits, " << tally.refused << " refused, " << ns->Stats().evicted
            << " evicted; " << samples << " samples, peak " << peak * 100 / kQuota << " %"
            << std::endl;
  EXPECT_EQ(tally.wrong, 0u);
  EXPECT_GT(tally.put_bytes, 10 * kQuota) << "not far above the capacity";
  EXPECT_GT(tally.hits, 0u);
  EXPECT_GT(samples, 100u);
  EXPECT_GT(peak, kQuota * 9 / 10) << "the quota was never under pressure";
  ExpectConsistentGauges(ns->Stats());
  ExpectGivesEverythingBack(ns);
  const NamespaceStats after = ns->Stats();
  EXPECT_EQ(after.largest_free_bytes, ns->arena_chunks().front().size()) << "holes did not merge";
}

INSTANTIATE_TEST_SUITE_P(Chunks, QuotaStress, ::testing::Values(kQuota, kQuota / 4));

}  // namespace
}  // namespace infercache::store
