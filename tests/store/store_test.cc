// Namespaces: names, quotas that share one capacity, and what deleting one leaves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/limits.h"
#include "tests/common/kernel_files.h"
#include "tests/store/store_fixture.h"
#include "tests/store/unreachable_chunks.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kPage = 4096;

class StoreOfNamespaces : public StoreFixture {
 protected:
  absl::Status TryCreate(const NamespaceSpec& spec) {
    return store_->CreateNamespace(spec).status();
  }
  absl::Status TryCreate(std::string name, uint64_t quota_bytes) {
    return TryCreate(NamespaceSpec{.name = std::move(name), .quota_bytes = quota_bytes});
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& ns : store_->Namespaces()) names.push_back(ns->spec().name);
    return names;
  }
};

TEST_F(StoreOfNamespaces, FindsWhatWasCreated) {
  const NamespaceVerbs ns = Create("llama");
  const auto found = store_->FindNamespace("llama");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->get(), ns.shared().get());
  const absl::Status missing = store_->FindNamespace("gpt").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("gpt"));
}

TEST_F(StoreOfNamespaces, AreSortedByName) {
  for (const char* name : {"b", "a.2", "c", "a-1"}) Create(name, kPage);
  EXPECT_THAT(Names(), ElementsAre("a-1", "a.2", "b", "c"));
}

TEST_F(StoreOfNamespaces, KeepTheirSpec) {
  const NamespaceSpec spec = {.name = "spec",
                              .quota_bytes = kMiB,
                              .max_objects = 77,
                              .policy = "lru",
                              .required_fingerprint = {{"model", "a"}},
                              .grpc_open = true};
  const NamespaceVerbs ns = Create(spec);
  EXPECT_EQ(ns->spec().name, "spec");
  EXPECT_EQ(ns->spec().required_fingerprint, spec.required_fingerprint);
  EXPECT_TRUE(ns->spec().grpc_open);
  EXPECT_EQ(ns->Stats().quota_bytes, kMiB);
  EXPECT_EQ(ns->Stats().max_objects, 77u);
}

TEST_F(StoreOfNamespaces, NameRules) {
  const auto refused = [this](std::string name) {
    const absl::Status status = TryCreate(std::move(name), kPage);
    EXPECT_THAT(std::string(status.message()), HasSubstr("name"));
    return status.code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused(std::string(kMaxNamespaceNameBytes + 1, 'a')));
  EXPECT_TRUE(refused("Upper"));
  EXPECT_TRUE(refused("with space"));
  EXPECT_TRUE(refused("slash/"));
  EXPECT_TRUE(refused("\xc3\xa4"));
  EXPECT_TRUE(refused(std::string("nul\0", 4)));
  EXPECT_TRUE(TryCreate(std::string(kMaxNamespaceNameBytes, 'a'), kPage).ok());
  EXPECT_TRUE(TryCreate("a-z_0.9", kPage).ok());
}

TEST_F(StoreOfNamespaces, FieldsAreChecked) {
  const auto message = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(message(TryCreate("n", 0)), HasSubstr("quota"));
  EXPECT_THAT(message(TryCreate("n", ~uint64_t{0})), HasSubstr("quota"));
  EXPECT_THAT(message(TryCreate({.name = "n", .quota_bytes = kPage, .policy = "clairvoyant"})),
              HasSubstr("clairvoyant"));
  EXPECT_THAT(message(TryCreate(
                  {.name = "n", .quota_bytes = kPage, .max_objects = kMaxObjectsPerNamespace + 1})),
              HasSubstr("max_objects"));
  EXPECT_THAT(message(TryCreate({.name = "n",
                                 .quota_bytes = kPage,
                                 .required_fingerprint = {{"model", "a"}, {"model", "b"}}})),
              HasSubstr("model"));
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(store_->committed_bytes(), 0u);
}

// Of more, records named others.
TEST_F(StoreOfNamespaces, ATierHasNoMoreChunksThanARecordCanName) {
  const auto host = Create("host", kPage);
  const auto add = [&](const char* device, uint64_t chunks) {
    return store_->AddDeviceTier(*host, device, PlanDeviceArena(chunks * kPage, kPage, kPage),
                                 std::make_unique<UnreachableChunks>());
  };
  const absl::Status refused = add("GPU-a", kMaxChunks + 1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("65536 chunks"));
  EXPECT_TRUE(add("GPU-a", kMaxChunks).ok());
}

TEST_F(StoreOfNamespaces, OneThatDoesNotFitIntoMemoryIsRefusedAndLeavesNothing) {
  const KernelFiles kernel;
  kernel.Write("/proc/self/cgroup", "0::/daemon\n");
  kernel.WriteNumber("/sys/fs/cgroup/daemon/memory.max", 100 * kMiB);
  kernel.WriteNumber("/sys/fs/cgroup/daemon/memory.current", 20 * kMiB);
  OpenStore({.capacity_bytes = 1024 * kMiB,
             .chunk_bytes = 16 * kMiB,
             .background = false,
             .populating = {.room = MemoryRoom(kernel.root())}});
  const absl::Status status = TryCreate("large", 80 * kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("memory.max is 104857600, of which 20971520"));
  EXPECT_EQ(store_->committed_bytes(), 0u);
  EXPECT_TRUE(TryCreate("large", 16 * kMiB).ok()) << "its name is free again";
}

TEST_F(StoreOfNamespaces, OneThatIsBeingMadeCanBeStopped) {
  int asked = 0;
  OpenStore({.capacity_bytes = 1024 * kMiB,
             .chunk_bytes = 16 * kMiB,
             .background = false,
             .populating = {.stopping = [&asked] { return ++asked == 3; }}});
  EXPECT_EQ(TryCreate("large", 1024 * kMiB).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(asked, 3) << "it stopped there";
  EXPECT_EQ(store_->committed_bytes(), 0u);
  EXPECT_TRUE(TryCreate("large", 16 * kMiB).ok());
}

TEST_F(StoreOfNamespaces, SameNameTwice) {
  Create("twin");
  const absl::Status status = TryCreate("twin", kPage);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("twin"));
  EXPECT_EQ(store_->committed_bytes(), kMiB);
}

TEST_F(StoreOfNamespaces, QuotasShareTheCapacity) {
  OpenStore({.capacity_bytes = 4 * kMiB, .background = false});
  Create("a", 3 * kMiB);
  EXPECT_EQ(store_->committed_bytes(), 3 * kMiB);
  EXPECT_EQ(TryCreate("b", kMiB + 1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(TryCreate("b", uint64_t{1} << 40).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->committed_bytes(), 3 * kMiB) << "a refused namespace kept capacity";
  EXPECT_TRUE(TryCreate("b", kMiB).ok());
  EXPECT_EQ(store_->committed_bytes(), 4 * kMiB);
  EXPECT_EQ(TryCreate("c", 1).code(), absl::StatusCode::kResourceExhausted);
}

// `infercached --capacity 100MB --default-quota 100MB` was valid to --check-config and did not
// start.
TEST_F(StoreOfNamespaces, QuotasThatAreNoWholePagesMayUseUpTheCapacity) {
  constexpr uint64_t kMB = 1'000'000;
  OpenStore({.capacity_bytes = 100 * kMB, .background = false});
  Create("a", 60 * kMB + 1);
  EXPECT_TRUE(TryCreate("b", 40 * kMB - 1).ok());
  EXPECT_EQ(TryCreate("c", 1).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(StoreOfNamespaces, QuotaIsRoundedToPagesAndChunksAddUpToIt) {
  OpenStore({.capacity_bytes = 64 * kMiB, .chunk_bytes = kMiB, .background = false});
  for (const uint64_t quota : {uint64_t{1}, kPage, kPage + 1, kMiB, kMiB + 1, 3 * kMiB + 12345}) {
    const uint64_t before = store_->committed_bytes();
    const NamespaceVerbs ns = Create("q" + std::to_string(quota), quota);
    uint64_t sum = 0;
    for (const auto& chunk : ns->arena_chunks()) {
      EXPECT_LE(chunk.size(), kMiB);
      EXPECT_EQ(chunk.size(), ns->arena_chunks().front().size());
      sum += chunk.size();
    }
    EXPECT_EQ(sum, ns->Stats().quota_bytes);
    EXPECT_EQ(quota, store_->committed_bytes() - before);
    EXPECT_GE(sum, quota);
    EXPECT_LT(sum, quota + kPage * ns->arena_chunks().size());
    EXPECT_EQ(sum % kPage, 0u);
  }
}

TEST_F(StoreOfNamespaces, ConcurrentCreatesDoNotOverbook) {
  OpenStore({.capacity_bytes = 4 * kMiB, .background = false});
  std::vector<std::thread> threads;
  std::atomic<int> created{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t, &created] {
      if (TryCreate("n" + std::to_string(t), kMiB).ok()) ++created;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(created, 4);
  EXPECT_EQ(store_->committed_bytes(), 4 * kMiB);
}

TEST_F(StoreOfNamespaces, NumberIsLimited) {
  for (size_t i = 0; i < kMaxNamespaces; ++i) Create("n" + std::to_string(i), 1);
  const absl::Status status = TryCreate("one-more", 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("256"));
}

TEST_F(StoreOfNamespaces, DeleteOfNothing) {
  const absl::Status status = store_->DeleteNamespace("absent");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("absent"));
}

TEST_F(StoreOfNamespaces, DeletedOneIsGoneAndItsQuotaFree) {
  NamespaceVerbs ns = Create("gone", kMiB);
  ns.MustPut("k", "v");
  EXPECT_TRUE(store_->DeleteNamespace("gone").ok());
  EXPECT_EQ(store_->FindNamespace("gone").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->DeleteNamespace("gone").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Names(), IsEmpty());
  ns.Release();
  EXPECT_EQ(store_->committed_bytes(), 0u);
}

TEST_F(StoreOfNamespaces, ClosedOneFindsNothingAndRefusesPuts) {
  const NamespaceVerbs ns = Create("closed");
  ns.MustPut("k", "v");
  WriteLease open = ns.Reserve("open", "v");
  EXPECT_FALSE(ns->closed());
  ASSERT_TRUE(store_->DeleteNamespace("closed").ok());
  EXPECT_TRUE(ns->closed());
  EXPECT_EQ(ns.TryReserve("new", 1).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ns.TryReserve("k", 1).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ns->Commit(std::move(open)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(ns.Lookup("k"));
  EXPECT_FALSE(ns.Has("k"));
  EXPECT_FALSE(ns.Erase("k"));
  EXPECT_EQ(ns->Flush(""), 0u);
  EXPECT_THAT(ns.Keys(), IsEmpty());
  ns.MaintainAll();
  EXPECT_EQ(ns->Stats().used_bytes, 0u);
  EXPECT_EQ(ns->Stats().objects, 0u);
}

TEST_F(StoreOfNamespaces, LeasesOutliveTheNamespace) {
  OpenStore({.capacity_bytes = kMiB, .background = false});
  NamespaceVerbs ns = Create("leased", kMiB);
  ns.MustPut("k", "value");
  std::optional<ReadLease> read = ns.Lookup("k");
  std::optional<WriteLease> write = ns.Reserve("w", "unfinished");
  ASSERT_TRUE(store_->DeleteNamespace("leased").ok());
  ns.Release();
  EXPECT_EQ(Bytes(*read), "value");
  EXPECT_EQ(read->key(), "k");
  EXPECT_EQ(ToString(write->bytes()), "unfinished");
  // Its memory is still in use: nobody else may have it.
  EXPECT_EQ(store_->committed_bytes(), kMiB);
  EXPECT_EQ(TryCreate("next", kPage).code(), absl::StatusCode::kResourceExhausted);
  write.reset();
  EXPECT_EQ(store_->committed_bytes(), kMiB);
  read.reset();
  EXPECT_EQ(store_->committed_bytes(), 0u);
  EXPECT_TRUE(TryCreate("next", kMiB).ok());
}

TEST_F(StoreOfNamespaces, LeasesOutliveTheStore) {
  std::optional<ReadLease> read;
  std::optional<WriteLease> write;
  {
    const NamespaceVerbs ns = Create("orphan");
    ns.MustPut("k", "value");
    read = ns.Lookup("k");
    write = ns.Reserve("w", "unfinished");
  }
  store_.reset();
  EXPECT_EQ(Bytes(*read), "value");
  EXPECT_EQ(read->info(), ObjectInfo());
  write.reset();
  read.reset();
}

TEST_F(StoreOfNamespaces, NameOfADeletedOneIsFreeAtOnce) {
  NamespaceVerbs old = Create("name", kMiB);
  old.MustPut("k", "old");
  const std::optional<ReadLease> reader = old.Lookup("k");
  ASSERT_TRUE(store_->DeleteNamespace("name").ok());
  const NamespaceVerbs fresh = Create("name", kMiB);
  EXPECT_FALSE(fresh.Has("k"));
  EXPECT_EQ(Bytes(*reader), "old");
  EXPECT_TRUE(old->closed());
  EXPECT_FALSE(fresh->closed());
}

TEST_F(StoreOfNamespaces, ObjectsOfTwoNeverMeet) {
  const NamespaceVerbs a = Create("a");
  const NamespaceVerbs b = Create("b");
  a.MustPut("k", "of a");
  EXPECT_FALSE(b.Lookup("k"));
  b.MustPut("k", "of b");
  EXPECT_EQ(a.Get("k"), "of a");
  EXPECT_EQ(a->Flush(""), 1u);
  EXPECT_EQ(b.Get("k"), "of b");
}

TEST_F(StoreOfNamespaces, OneShardWorksToo) {
  OpenStore({.capacity_bytes = 4 * kMiB, .shards = 1, .background = false});
  const NamespaceVerbs ns = Create("single");
  for (int i = 0; i < 1000; ++i) ns.MustPut("k" + std::to_string(i), "v");
  EXPECT_EQ(ns.Keys().size(), 1000u);
}

TEST_F(StoreOfNamespaces, FewerObjectsThanShards) {
  const NamespaceVerbs ns = Create("tiny", kPage, /*max_objects=*/1);
  ns.MustPut("a", "1");
  ns.MustPut("b", "2");
  EXPECT_EQ(ns.Get("b"), "2");
  EXPECT_EQ(ns.Get("a"), std::nullopt);
  EXPECT_EQ(ns->Stats().objects, 1u);
}

// The thread that does upkeep in the daemon, under the real clock.
TEST(StoreBackground, KeepsTheReserveAndExpires) {
  const MonotonicClock clock;
  Store store({.capacity_bytes = uint64_t{4} << 20, .background = true}, clock);
  const NamespaceVerbs ns(
      *store.CreateNamespace({.name = "background", .quota_bytes = uint64_t{4} << 20}));
  ns.MustPut("dying", "v", {.info = {.ttl_ms = 1}});
  const std::string value(4096, 'v');
  for (int i = 0; i < 2'000; ++i) ns.MustPut("k" + std::to_string(i), value);
  const uint64_t deadline_ms = clock.NowMs() + 20'000;
  const auto done = [&ns] {
    const NamespaceStats stats = ns->Stats();
    return stats.quota_bytes - stats.used_bytes >= stats.quota_bytes / 100 &&
           stats.limbo_bytes == 0 && !ns.Has("dying");
  };
  while (!done()) {
    ASSERT_LT(clock.NowMs(), deadline_ms) << "the background thread does nothing";
    std::this_thread::yield();
  }
}

TEST(StoreBackground, StopsAtOnce) {
  const MonotonicClock clock;
  for (int i = 0; i < 20; ++i) {
    Store store({.capacity_bytes = uint64_t{1} << 20, .background = true}, clock);
    (void)store.CreateNamespace({.name = "n", .quota_bytes = 4096});
  }
}

}  // namespace
}  // namespace infercache::store
