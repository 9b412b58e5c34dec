// What a hit is on the local lane: whose memory, for how long, within which bounds.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "tests/client/local_testing.h"

namespace infercache {
namespace {

std::vector<std::string> Keys(size_t count) {
  std::vector<std::string> keys;
  for (size_t i = 0; i < count; ++i) keys.push_back(absl::StrCat("k/", i));
  return keys;
}

TEST(LocalHits, ComeWithoutARoundTrip) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  ASSERT_EQ(client.Put("k", "value").outcome, PutOutcome::kStored);
  const uint64_t requests = daemon.stats().requests;
  std::string buffer(5, '.');
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(client.Read("k"), "value");
    EXPECT_EQ(client.Read("missing"), "(miss)");
    EXPECT_TRUE(client.GetInto("k", std::as_writable_bytes(std::span(buffer))).hit);
  }
  EXPECT_EQ(buffer, "value");
  EXPECT_EQ(daemon.stats().requests, requests);
  const store::NamespaceStats stats = daemon.namespace_stats();
  EXPECT_EQ(stats.client.hits, 200u);
  EXPECT_EQ(stats.client.misses, 100u);
  EXPECT_EQ(stats.client.hit_bytes, 1000u);
}

TEST(LocalHits, AreZeroCopyAndPinned) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  client.Put("k", std::string(kMiB, 'a'));
  GetResult got = client.Get("k");
  ASSERT_TRUE(got.hit());
  EXPECT_TRUE(got.object->zero_copy());
  EXPECT_EQ(daemon.namespace_stats().client_pins, 1u);
  client.Put("k", std::string(kMiB, 'b'), /*overwrite=*/true);
  for (int i = 0; i < 100; ++i) client.Put(absl::StrCat("filler", i), std::string(kMiB, 'c'));
  EXPECT_EQ(Text(got.object->bytes()), std::string(kMiB, 'a'));
  got.object.reset();
  EXPECT_EQ(daemon.namespace_stats().client_pins, 0u);
}

// torch knows no read-only tensors: an operation in place on one over a writer's view changed the
// object for everybody.
TEST(LocalHits, CannotBeWrittenThroughEvenByAWriter) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  ReserveResult reserved = client.Reserve("k", 5);
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  const std::span<std::byte> room = reserved.reservation->bytes();
  std::fill(room.begin(), room.end(), std::byte{'a'});
  ASSERT_EQ(client.Commit(*std::move(reserved.reservation)).outcome, PutOutcome::kStored);
  const GetResult got = client.Get("k");
  ASSERT_TRUE(got.hit());
  ASSERT_TRUE(got.object->zero_copy());
  // The kernel writes where the process could, and says so where it could not.
  const UniqueFd zeros(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(zeros.valid());
  EXPECT_EQ(read(zeros.get(), const_cast<std::byte*>(got.object->bytes().data()), 5), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(client.Read("k"), "aaaaa");
}

TEST(LocalHits, ViewsMoveAndDieOnAnyThread) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  client.Put("k", "value");
  std::vector<GetResult> views;
  for (int i = 0; i < 50; ++i) views.push_back(client.View("k"));
  std::thread([views = std::move(views)]() mutable { views.clear(); }).join();
  EXPECT_EQ(daemon.namespace_stats().client_pins, 0u);
  EXPECT_TRUE(client.View("k").hit());
}

TEST(LocalHits, ViewsOutliveTheirClient) {
  LocalDaemon daemon;
  GetResult got;
  {
    LocalClient client(daemon.path());
    client.Put("k", std::string(kMiB, 'a'));
    got = client.View("k");
  }
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(daemon.namespace_stats().client_pins, 1u) << "its connection stays open";
  LocalClient other(daemon.path());
  for (int i = 0; i < 100; ++i) other.Put(absl::StrCat("filler", i), std::string(kMiB, 'c'));
  EXPECT_EQ(Text(got.object->bytes()), std::string(kMiB, 'a'));
  got = {};
  EXPECT_TRUE(Eventually([&] { return daemon.stats().sessions == 1; })) << "and then closes";
}

TEST(LocalHits, ViewsOutliveTheirDaemon) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  client.Put("k", std::string(kMiB, 'a'));
  const GetResult got = client.View("k");
  ASSERT_TRUE(got.hit()) << got.status;
  daemon.Stop();
  EXPECT_EQ(Text(got.object->bytes()), std::string(kMiB, 'a'));
  EXPECT_TRUE(Eventually([&] { return absl::IsUnavailable(client.Get("k").status); }));
}

// Each thread used to wait for its turn with its pin held: together they were thrown out.
TEST(LocalBudget, CopiesBeyondItTakeTurnsWithoutPins) {
  LocalDaemon daemon({.quota_bytes = 16 * kMiB, .chunk_bytes = 16 * kMiB});  // budget 4 MiB
  LocalClient client(daemon.path());
  const std::string value(kMiB, 'a');
  ASSERT_EQ(client.Put("k", value).outcome, PutOutcome::kStored);
  std::vector<GetResult> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(client.View("k"));
    ASSERT_TRUE(held.back().hit()) << held.back().status;
  }
  // Long enough for the daemon to look several times.
  const absl::Time end = absl::Now() + absl::Milliseconds(700);
  std::vector<std::thread> threads;
  for (int t = 0; t < 32; ++t) {
    threads.emplace_back([&, t] {
      std::string buffer(kMiB, '.');
      while (absl::Now() < end) {
        if (t % 2 == 0) {
          ASSERT_TRUE(client.GetInto("k", std::as_writable_bytes(std::span(buffer))).hit);
        } else {
          const GetResult got = client.Get("k");
          ASSERT_TRUE(got.hit()) << got.status;
          ASSERT_FALSE(got.object->zero_copy());
        }
      }
      EXPECT_EQ(buffer, t % 2 == 0 ? value : std::string(kMiB, '.'));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(daemon.stats().sessions_opened, 1u) << "nobody was thrown out";
  EXPECT_EQ(daemon.namespace_stats().client_pins, 4u);
  for (const GetResult& view : held) EXPECT_EQ(Text(view.object->bytes()), value);
}

TEST(LocalBudget, GetCopiesBeyondItAndViewRefuses) {
  LocalDaemon daemon({.quota_bytes = 16 * kMiB, .chunk_bytes = 16 * kMiB});  // budget 4 MiB
  LocalClient client(daemon.path());
  client.Put("k", std::string(kMiB, 'a'));
  client.Put("large", std::string(5 * kMiB, 'b'));
  std::vector<GetResult> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(client.View("k"));
    ASSERT_TRUE(held.back().hit()) << held.back().status;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(client.View("k").status));
  const GetResult copied = client.Get("k");
  ASSERT_TRUE(copied.hit()) << copied.status;
  EXPECT_FALSE(copied.object->zero_copy());
  EXPECT_EQ(Text(copied.object->bytes()), std::string(kMiB, 'a'));
  EXPECT_TRUE(client.View("missing").status.ok()) << "a miss is a miss";
  held.pop_back();
  EXPECT_TRUE(client.View("k").hit());
  held.clear();
  EXPECT_TRUE(absl::IsResourceExhausted(client.View("large").status));
  EXPECT_TRUE(client.Get("large").hit());
  std::string buffer(5 * kMiB, '.');
  EXPECT_TRUE(client.GetInto("large", std::as_writable_bytes(std::span(buffer))).hit);
  EXPECT_EQ(buffer, std::string(5 * kMiB, 'b'));
  EXPECT_EQ(daemon.stats().sessions, 1u) << "nobody was thrown out";
}

TEST(LocalSlots, GrowOnRequestAndAreGivenBack) {
  LocalSetup setup;
  setup.options.pin_slots = 8;
  LocalDaemon daemon(setup);
  LocalClient client(daemon.path());
  client.Put("k", "value");
  std::vector<GetResult> held;
  // The first refusals ask for more.
  ASSERT_TRUE(Eventually([&] {
    GetResult got = client.View("k");
    if (got.hit()) held.push_back(std::move(got));
    return held.size() == 1000;
  }));
  EXPECT_EQ(daemon.namespace_stats().client_pins, 1000u);
  EXPECT_EQ(client.Read("k"), "value");
  held.clear();
  EXPECT_EQ(daemon.namespace_stats().client_pins, 0u);
}

TEST(LocalSlots, ABatchAsksForWhatItLacks) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  const std::vector<std::string> keys = Keys(5000);
  for (const PutResult& result : client.PutAll(keys, "v")) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  Reached reached;
  const auto results = client.transport().GetNow(views, LocalTransport::Copies::kRefused,
                                                 absl::Now() + absl::Seconds(30), &reached);
  for (const GetResult& result : results) ASSERT_TRUE(result.hit()) << result.status;
  EXPECT_EQ(daemon.namespace_stats().client_pins, 5000u);
}

TEST(LocalSlots, RunOutAtTheLimit) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  client.Put("k", "v");
  std::vector<GetResult> held;
  absl::Status status;
  while (held.size() <= kMaxPinSlots) {
    GetResult got = client.View("k");
    if (!got.hit() && held.size() > kMaxPinSlots - shm::kLanes - 1) {
      status = got.status;
      break;
    }
    if (got.hit()) held.push_back(std::move(got));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(held.size(), kMaxPinSlots - shm::kLanes);
  const GetResult copied = client.Get("k");
  ASSERT_TRUE(copied.hit());
  EXPECT_FALSE(copied.object->zero_copy());
}

TEST(LocalMatch, FindsThousandsOfKeys) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  const std::vector<std::string> keys = Keys(4096);
  client.PutAll(keys, "12345");
  std::vector<std::string_view> views(keys.begin(), keys.end());
  views.push_back("missing");
  const uint64_t requests = daemon.stats().requests;
  const MatchResult match = client.Match(views);
  ASSERT_TRUE(match.status.ok()) << match.status;
  EXPECT_EQ(match.prefix_length, 4096u);
  EXPECT_FALSE(match.present[4096]);
  EXPECT_TRUE(std::all_of(match.size_bytes.begin(), match.size_bytes.end() - 1,
                          [](uint64_t size) { return size == 5; }));
  EXPECT_EQ(daemon.stats().requests, requests);
  EXPECT_EQ(daemon.namespace_stats().client_pins, 0u);
}

// More than a ring holds: the daemon is told, once, and takes them.
TEST(LocalTouches, AreDrainedBeforeTheRingIsFull) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  const std::vector<std::string> keys = Keys(7000);
  client.PutAll(keys, "v");
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  ASSERT_EQ(client.Match(views).prefix_length, 7000u);
  EXPECT_TRUE(Eventually([&] { return daemon.stats().touches_drained >= 7000; }));
}

TEST(LocalChecksums, AWrongByteIsAMissThatTheDaemonCounts) {
  LocalDaemon daemon({.checksums = true});
  LocalClient client(daemon.path());
  client.Put("k", std::string(1000, 'a'));
  ASSERT_TRUE(client.Get("k").hit());
  // A writer that spoils what it may write: the mapping is shared.
  for (const std::span<std::byte> chunk : daemon.ns().arena_chunks()) {
    const auto value = std::find(chunk.begin(), chunk.end(), std::byte{'a'});
    if (value != chunk.end()) *value = std::byte{'b'};
  }
  std::string buffer(1000, '.');
  EXPECT_FALSE(client.GetInto("k", std::as_writable_bytes(std::span(buffer))).hit);
  EXPECT_EQ(client.Read("k"), "(miss)");
  EXPECT_EQ(daemon.namespace_stats().integrity_failures, 1u);
}

// Whole objects, whoever reads and writes at the same time. Readers and writers are clients of
// their own, each with its own mapping: what orders them is in the daemon, where ThreadSanitizer
// does not see that it is the same memory.
TEST(LocalThreads, SeeWholeObjects) {
  LocalDaemon daemon({.quota_bytes = 16 * kMiB, .chunk_bytes = 4 * kMiB});
  LocalClient writers[] = {LocalClient(daemon.path()), LocalClient(daemon.path())};
  LocalClient readers[] = {LocalClient(daemon.path()), LocalClient(daemon.path())};
  const std::vector<std::string> values = {std::string(100, 'a'), std::string(20'000, 'b'),
                                           std::string(300'000, 'c')};
  std::atomic<int> hits{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      LocalClient& writer = writers[t % 2];
      LocalClient& client = readers[t / 2 % 2];
      std::string buffer(300'000, '.');
      for (int i = 0; i < 300; ++i) {
        const std::string key = absl::StrCat("k", (t + i) % 5);
        if (i % 3 == 0) {
          const PutResult put = writer.Put(key, values[(t + i) % 3], /*overwrite=*/true);
          ASSERT_TRUE(put.status.ok()) << put.status;
        }
        const GetIntoResult copied = client.GetInto(key, std::as_writable_bytes(std::span(buffer)));
        ASSERT_TRUE(copied.status.ok()) << copied.status;
        if (copied.hit) {
          ++hits;
          ASSERT_NE(std::find(values.begin(), values.end(), buffer.substr(0, copied.size_bytes)),
                    values.end());
        }
        const GetResult got = client.Get(key);
        ASSERT_TRUE(got.status.ok()) << got.status;
        if (!got.hit()) continue;
        const std::string text = Text(got.object->bytes());
        ASSERT_NE(std::find(values.begin(), values.end(), text), values.end());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(hits, 500);
  EXPECT_EQ(daemon.namespace_stats().client_pins, 0u);
}

// More than there are lanes.
TEST(LocalThreads, ManyShareAClient) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  for (int i = 0; i < 10; ++i) client.Put(absl::StrCat("k", i), absl::StrCat("v", i));
  std::vector<std::thread> threads;
  for (int t = 0; t < 40; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const int k = (t + i) % 10;
        ASSERT_EQ(client.Read(absl::StrCat("k", k)), absl::StrCat("v", k));
      }
      ASSERT_EQ(client.Put(absl::StrCat("own", t), "x").outcome, PutOutcome::kStored);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(daemon.namespace_stats().client.hits, 8000u);
}

}  // namespace
}  // namespace infercache
