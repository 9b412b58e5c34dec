#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/check_names.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "server/metrics_table.h"
#include "server/process_stats.h"
#include "server/text.h"
#include "tests/store/unreachable_chunks.h"

namespace infercache::server {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kMiB = 1 << 20;

store::StoreOptions SmallStore() {
  store::StoreOptions options;
  options.capacity_bytes = 4 * kMiB;
  options.chunk_bytes = kMiB;
  options.shards = 1;
  options.background = false;
  return options;
}

void Put(store::Namespace& ns, const std::string& key, size_t size, float cost_ms = 0) {
  ObjectInfo info;
  info.compute_cost_ms = cost_ms;
  store::PutSpec spec;
  spec.id = {key, {}};
  spec.size_bytes = size;
  spec.info = &info;
  auto lease = ns.Reserve(spec);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_TRUE(lease->has_value());
  for (std::byte& byte : (*lease)->bytes()) byte = std::byte{1};
  ASSERT_TRUE(ns.Commit(**std::move(lease)).ok());
}

TEST(MetricTable, NamesFollowPrometheus) {
  std::set<std::string_view> names;
  for (const MetricSpec& spec : kMetricTable) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
    EXPECT_TRUE(prometheus::CheckMetricName(std::string(spec.name))) << spec.name;
    EXPECT_EQ(spec.name.ends_with("_total"), spec.kind == MetricKind::kCounter) << spec.name;
    EXPECT_TRUE(spec.name.starts_with("infercache_") || spec.name.starts_with("process_"));
    EXPECT_EQ(spec.help.back(), '.') << spec.name;
  }
}

TEST(Histogram, CountsByPowersOfFour) {
  Histogram histogram(1.0);
  EXPECT_EQ(histogram.bound(0), 1.0);
  EXPECT_EQ(histogram.bound(2), 16.0);
  histogram.Observe(0);
  histogram.Observe(1.0);
  histogram.Observe(1.5);
  histogram.Observe(1e12);
  const Histogram::Snapshot snapshot = histogram.Read();
  EXPECT_EQ(snapshot.counts[0], 2u) << "bounds are inclusive";
  EXPECT_EQ(snapshot.counts[1], 1u);
  EXPECT_EQ(snapshot.counts[Histogram::kBounds], 1u);
  EXPECT_EQ(snapshot.count(), 4u);
}

TEST(Metrics, ShowWhatANamespaceDid) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  store::NamespaceSpec spec;
  spec.name = "kv";
  spec.quota_bytes = kMiB;
  const auto ns = store.CreateNamespace(spec);
  ASSERT_TRUE(ns.ok()) << ns.status();
  Put(**ns, "a", 1000, 2500);
  EXPECT_TRUE((*ns)->Lookup({"a", {}}).has_value());
  EXPECT_FALSE((*ns)->Lookup({"b", {}}).has_value());

  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("infercache_capacity_bytes 4194304\n"));
  EXPECT_THAT(text, HasSubstr("infercache_quota_bytes{namespace=\"kv\",tier=\"host\"} 1048576\n"));
  EXPECT_THAT(text, HasSubstr("infercache_objects{namespace=\"kv\",tier=\"host\"} 1\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_lookup_hits_total{namespace=\"kv\",tier=\"host\",lane=\"daemon\"} 1\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_lookup_misses_total{namespace=\"kv\",tier=\"host\",lane=\"daemon\"} 1\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_hit_bytes_total{namespace=\"kv\",tier=\"host\",lane=\"daemon\"} 1000\n"));
  EXPECT_THAT(text, HasSubstr("infercache_store_bytes_total 1000\n"));
  EXPECT_THAT(text, HasSubstr("infercache_store_requests_total{namespace=\"kv\",tier=\"host\","
                              "result=\"stored\"} 1\n"));
  EXPECT_THAT(
      text,
      HasSubstr("infercache_saved_compute_seconds_total{namespace=\"kv\",tier=\"host\"} 2.5\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE infercache_lookup_hits_total counter\n"));
  metrics.SetStore(nullptr);
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("namespace=\"kv\"")));
}

TEST(Metrics, ShowEachTierByItself) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  metrics.SetLocalLane({.stats = nullptr, .quarantined_in = [](std::string_view name) {
                          return store::AgedBytes{.older = name == "kv@GPU-a" ? 7u : 0u};
                        }});
  store::NamespaceSpec spec;
  spec.name = "kv";
  spec.quota_bytes = kMiB;
  const auto ns = store.CreateNamespace(spec);
  ASSERT_TRUE(ns.ok()) << ns.status();
  ASSERT_TRUE(store::AddUnreachableTier(store, **ns, "GPU-a", 2 * kMiB).ok());
  (*ns)->SetDeviceTier({.device = "GPU-b",
                        .bytes = kMiB,
                        .objects = nullptr,
                        .why_off = absl::UnimplementedError("no such GPU")});
  Put(**(*ns)->FindDeviceTier("GPU-a"), "a", 1000);
  for (int i = 0; i < 3; ++i) Put(**(*ns)->FindDeviceTier("GPU-a"), Cat("large", i), kMiB);
  Put(**ns, "b", 10);
  EXPECT_TRUE((*(*ns)->FindDeviceTier("GPU-a"))->Lookup({"large2", {}}).has_value());

  const std::string text = metrics.Text();
  for (const char* line : {
           "infercache_demoted_objects_total{namespace=\"kv\",tier=\"GPU-a\"} 0\n",
           "infercache_demoting_seconds{namespace=\"kv\",tier=\"GPU-a\"} 0\n",
           "infercache_device_tier_ready{namespace=\"kv\",tier=\"GPU-a\"} 1\n",
           "infercache_device_tier_ready{namespace=\"kv\",tier=\"GPU-b\"} 0\n",
           "infercache_quota_bytes{namespace=\"kv\",tier=\"host\"} 1048576\n",
           "infercache_quota_bytes{namespace=\"kv\",tier=\"GPU-a\"} 2097152\n",
           "infercache_objects{namespace=\"kv\",tier=\"host\"} 1\n",
           "infercache_objects{namespace=\"kv\",tier=\"GPU-a\"} 2\n",
           "infercache_evictions_total{namespace=\"kv\",tier=\"host\",reason=\"capacity\"} 0\n",
           "infercache_evicted_bytes_total{namespace=\"kv\",tier=\"GPU-a\"} 1049576\n",
           "infercache_lookup_hits_total{namespace=\"kv\",tier=\"host\",lane=\"daemon\"} 0\n",
           "infercache_lookup_hits_total{namespace=\"kv\",tier=\"GPU-a\",lane=\"daemon\"} 1\n",
           "infercache_quarantined_bytes{namespace=\"kv\",tier=\"GPU-a\",age=\"older\"} 7\n",
           "infercache_quarantined_bytes{namespace=\"kv\",tier=\"host\",age=\"older\"} 0\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("infercache_objects{namespace=\"kv\",tier=\"GPU-b\"}")));
  EXPECT_THAT(text, Not(HasSubstr("infercache_arena_pages_info{namespace=\"kv\",tier=\"GPU-a\"")));
  metrics.SetLocalLane({});
  metrics.SetStore(nullptr);
}

TEST(Metrics, CountEvictionsAndHowLongTheObjectsWereIdle) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  store::NamespaceSpec spec;
  spec.name = "kv";
  spec.quota_bytes = kMiB;
  const auto ns = store.CreateNamespace(spec);
  ASSERT_TRUE(ns.ok()) << ns.status();
  Put(**ns, "first", kMiB / 2);
  clock.AdvanceMs(10'000);
  for (int i = 0; i < 4; ++i) Put(**ns, Cat("later", i), kMiB / 2 - 64 * 1024);
  const std::string text = metrics.Text();
  const store::NamespaceStats stats = (*ns)->Stats();
  ASSERT_GT(stats.evicted, 0u);
  EXPECT_THAT(text,
              HasSubstr(Cat(
                  "infercache_evictions_total{namespace=\"kv\",tier=\"host\",reason=\"capacity\"} ",
                  stats.evicted - stats.evicted_neighbours, "\n")));
  EXPECT_THAT(
      text, HasSubstr(Cat(
                "infercache_evictions_total{namespace=\"kv\",tier=\"host\",reason=\"neighbour\"} ",
                stats.evicted_neighbours, "\n")));
  EXPECT_THAT(text, HasSubstr(Cat("infercache_object_idle_before_evict_seconds_count ",
                                  stats.evicted, "\n")));
  // Only "first" had been idle, for 10 s: above the bound of 4 s.
  EXPECT_THAT(text, HasSubstr("infercache_object_idle_before_evict_seconds_sum 10\n"));
  const std::string age = "infercache_object_age_at_evict_seconds_";
  EXPECT_THAT(text,
              HasSubstr(Cat(age, "count{namespace=\"kv\",tier=\"host\"} ", stats.evicted, "\n")));
  EXPECT_THAT(text, HasSubstr(Cat(age, "sum{namespace=\"kv\",tier=\"host\"} 10\n")));
  metrics.SetStore(nullptr);
}

TEST(Metrics, ShowWhatMissesAreDueToAndHowFarApartUsesAre) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  store::NamespaceSpec spec;
  spec.name = "kv";
  spec.quota_bytes = kMiB;
  spec.max_objects = 2;
  spec.policy = "lru";
  const auto ns = store.CreateNamespace(spec);
  ASSERT_TRUE(ns.ok()) << ns.status();
  for (const char* key : {"a", "b", "c", "a"}) {
    Put(**ns, key, 1);
    clock.AdvanceMs(2'000);
  }
  EXPECT_TRUE((*ns)->Lookup({"a", {}}).has_value());
  const std::string text = metrics.Text();
  for (
      const char* line :
      {"infercache_uses_total{namespace=\"kv\",tier=\"host\",result=\"hit\"} 1\n",
       "infercache_uses_total{namespace=\"kv\",tier=\"host\",result=\"evicted\"} 1\n",
       "infercache_uses_total{namespace=\"kv\",tier=\"host\",result=\"expired\"} 0\n",
       "infercache_uses_total{namespace=\"kv\",tier=\"host\",result=\"cold\"} 3\n",
       "infercache_class_uses_total{namespace=\"kv\",tier=\"host\",class=\"0\",result=\"hit\"} 1\n",
       "infercache_class_uses_total{namespace=\"kv\",tier=\"host\",class=\"0\",result=\"stored\"} "
       "4\n",
       "infercache_reuse_gap_seconds_sum{namespace=\"kv\",tier=\"host\",result=\"hit\"} 2\n",
       "infercache_reuse_gap_seconds_bucket{namespace=\"kv\",tier=\"host\",result=\"hit\",le=\"1\"}"
       " 0\n",
       "infercache_reuse_gap_seconds_bucket{namespace=\"kv\",tier=\"host\",result=\"hit\",le=\"4\"}"
       " 1\n",
       "infercache_reuse_gap_seconds_sum{namespace=\"kv\",tier=\"host\",result=\"evicted\"} 6\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("class=\"1\"")));
  metrics.SetStore(nullptr);
}

// What an operator computes the hit ratio at twice the capacity of. Requests for three objects take
// turns where there is room for two: whatever is not there was there with room for four.
TEST(Metrics, ShowWhatTwiceTheCapacityWouldHitWithEveryPolicy) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  for (const char* policy : {"auto", "lru", "fifo", "lfu", "s3fifo", "arc"}) {
    store::NamespaceSpec spec;
    spec.name = policy;
    spec.quota_bytes = kMiB / 2;
    spec.max_objects = 2;
    spec.policy = policy;
    const auto ns = store.CreateNamespace(spec);
    ASSERT_TRUE(ns.ok()) << ns.status();
    int hits = 0;
    for (const int rounds : {1, 3, 6}) {
      while (static_cast<int>((*ns)->Stats().stored) + hits < 3 * rounds) {
        for (const char* key : {"a", "b", "c"}) {
          clock.AdvanceMs(1'000);
          if ((*ns)->Lookup({key, {}}).has_value()) {
            ++hits;
          } else {
            Put(**ns, key, 1);
          }
        }
      }
      const std::string text = metrics.Text();
      const std::string uses =
          Cat("infercache_uses_total{namespace=\"", policy, "\",tier=\"host\",result=\"");
      EXPECT_THAT(text, HasSubstr(Cat(uses, "hit\"} ", hits, "\n")));
      EXPECT_THAT(text, HasSubstr(Cat(uses, "evicted\"} ", 3 * rounds - 3 - hits, "\n")));
      EXPECT_THAT(text, HasSubstr(Cat(uses, "cold\"} 3\n")));
    }
  }
  metrics.SetStore(nullptr);
}

TEST(Metrics, CountCallsByMethodAndStatus) {
  Metrics metrics({"Cache/Get", "Cache/Put"});
  metrics.OnCall({.method = "Cache/Get",
                  .code = absl::StatusCode::kOk,
                  .latency = absl::Microseconds(30),
                  .request_bytes = 5,
                  .response_bytes = 70});
  metrics.OnCall({.method = "Cache/Get",
                  .code = absl::StatusCode::kResourceExhausted,
                  .latency = absl::Milliseconds(3)});
  metrics.OnCall({.method = "unknown", .latency = absl::Seconds(1)});
  const std::string text = metrics.Text();
  const std::string ok =
      "infercache_grpc_server_call_duration_seconds_bucket{grpc_method="
      "\"infercache.v1.Cache/Get\",grpc_status=\"OK\",le=";
  EXPECT_THAT(text, HasSubstr(ok + "\"1e-05\"} 0\n"));
  EXPECT_THAT(text, HasSubstr(ok + "\"4e-05\"} 1\n"));
  EXPECT_THAT(text, HasSubstr(ok + "\"+Inf\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("grpc_status=\"RESOURCE_EXHAUSTED\""));
  EXPECT_THAT(text, HasSubstr("infercache_grpc_response_bytes_total{grpc_method="
                              "\"infercache.v1.Cache/Get\"} 70\n"));
  EXPECT_THAT(text, Not(HasSubstr("unknown")));
}

TEST(Metrics, ReadinessAndRpcAreShown) {
  Metrics metrics({});
  EXPECT_THAT(metrics.Text(), HasSubstr("infercache_ready 0\n"));
  metrics.SetReady(true);
  metrics.SetRpcStats([] { return rpc::RpcStats{.pinned_response_bytes = 42}; });
  EXPECT_THAT(metrics.Text(), HasSubstr("infercache_ready 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("infercache_pinned_response_bytes 42\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("infercache_build_info{version=\""));
}

TEST(ProcessStats, DescribeThisProcess) {
  const ProcessStats before = ReadProcessStats();
  EXPECT_GT(before.resident_bytes, kMiB);
  EXPECT_GE(before.virtual_bytes, before.resident_bytes);
  EXPECT_GE(before.threads, 1u);
  EXPECT_GT(before.max_fds, before.open_fds);
  EXPECT_GT(before.start_time_seconds, 1.6e9);
  std::vector<int> fds;
  for (int i = 0; i < 10; ++i) fds.push_back(dup(0));
  EXPECT_EQ(ReadProcessStats().open_fds, before.open_fds + 10);
  for (int fd : fds) close(fd);
}

TEST(Metrics, ShowTheSameHostLane) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  store::NamespaceSpec spec;
  spec.name = "kv";
  spec.quota_bytes = kMiB;
  const auto ns = store.CreateNamespace(spec);
  ASSERT_TRUE(ns.ok()) << ns.status();
  const std::string without = metrics.Text();
  EXPECT_THAT(without, Not(HasSubstr("infercache_local_sessions")));
  EXPECT_THAT(
      without,
      HasSubstr("infercache_lookup_hits_total{namespace=\"kv\",tier=\"host\",lane=\"local\"} 0\n"));
  EXPECT_THAT(without,
              HasSubstr("infercache_pins{namespace=\"kv\",tier=\"host\",lane=\"local\"} 0\n"));
  EXPECT_THAT(
      without,
      HasSubstr("infercache_limbo_bytes{namespace=\"kv\",tier=\"host\",age=\"older\"} 0\n"));
  EXPECT_THAT(without,
              HasSubstr(Cat("infercache_arena_pages_info{namespace=\"kv\",tier=\"host\",kind=\"",
                            PageKindName((*ns)->page_kind()), "\"} 1\n")));

  rpc::LocalLaneStats stats;
  stats.sessions = 3;
  stats.sessions_ended = {{"closed", 5}, {"process_gone", 1}};
  stats.requests = 7;
  stats.reservations_expired = 2;
  stats.lending = {.loans = 31,
                   .bytes = 32,
                   .allocations = 33,
                   .readers = 34,
                   .borrowed = 35,
                   .mapped = 36,
                   .waiting = 37,
                   .longest_wait_ms = 1500,
                   .lent = 38,
                   .borrows_found = 39,
                   .borrows_not_found = 40,
                   .borrows_not_opened = 46,
                   .taken_back_at_once = 41,
                   .taken_back_after_wait = 42,
                   .owner_gone = 43,
                   .refused = {{"exists", 44}, {"limit", 45}}};
  metrics.SetLocalLane({.stats = [stats] { return stats; },
                        .quarantined_in =
                            [](std::string_view name) {
                              return store::AgedBytes{.below_1s = name == "kv" ? 11u : 0u,
                                                      .older = 22};
                            }});
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("infercache_local_sessions 3\n"));
  EXPECT_THAT(text, HasSubstr("infercache_local_sessions_ended_total{reason=\"closed\"} 5\n"));
  EXPECT_THAT(text,
              HasSubstr("infercache_local_sessions_ended_total{reason=\"process_gone\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("infercache_local_requests_total 7\n"));
  EXPECT_THAT(text, HasSubstr("infercache_local_reservations_expired_total 2\n"));
  for (const char* line :
       {"lent_tensors 31", "lent_bytes 32", "lent_allocations 33", "lent_readers 34",
        "lent_borrowed 35", "lent_mapped 36", "lent_waiting 37", "lent_longest_wait_seconds 1.5",
        "lends_total 38", "borrows_total{result=\"hit\"} 39", "borrows_total{result=\"miss\"} 40",
        "borrows_not_opened_total 46", "loans_ended_total{result=\"at_once\"} 41",
        "loans_ended_total{result=\"waited\"} 42", "loans_ended_total{result=\"owner_gone\"} 43",
        "lending_refused_total{reason=\"exists\"} 44",
        "lending_refused_total{reason=\"limit\"} 45"}) {
    EXPECT_THAT(text, HasSubstr(Cat("\ninfercache_", line, "\n")));
  }
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_quarantined_bytes{namespace=\"kv\",tier=\"host\",age=\"below_1s\"} 11\n"));
  EXPECT_THAT(
      text,
      HasSubstr("infercache_quarantined_bytes{namespace=\"kv\",tier=\"host\",age=\"older\"} 22\n"));
  metrics.SetLocalLane({});
  metrics.SetStore(nullptr);
}

TEST(Metrics, CountWhatClientsCounted) {
  ManualClock clock;
  Metrics metrics({});
  store::Store store(SmallStore(), clock, &metrics);
  metrics.SetStore(&store);
  store::NamespaceSpec spec;
  spec.name = "kv";
  spec.quota_bytes = kMiB;
  const auto ns = store.CreateNamespace(spec);
  ASSERT_TRUE(ns.ok()) << ns.status();
  const auto page = store::ClientPage::Create(16);
  ASSERT_TRUE(page.ok()) << page.status();
  (*ns)->AttachPage(*page);
  const shm::SessionPage client((*page)->memory(), (*page)->slot_capacity());
  shm::LaneHeader& counters = client.lane(0);
  counters.hits.store(3);
  counters.hit_bytes.store(3000);
  counters.misses.store(1);
  const std::string text = metrics.Text();
  EXPECT_THAT(
      text,
      HasSubstr("infercache_lookup_hits_total{namespace=\"kv\",tier=\"host\",lane=\"local\"} 3\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_lookup_misses_total{namespace=\"kv\",tier=\"host\",lane=\"local\"} 1\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_hit_bytes_total{namespace=\"kv\",tier=\"host\",lane=\"local\"} 3000\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "infercache_lookup_hits_total{namespace=\"kv\",tier=\"host\",lane=\"daemon\"} 0\n"));
  (*ns)->DetachPage(*page);
  metrics.SetStore(nullptr);
}

}  // namespace
}  // namespace infercache::server
