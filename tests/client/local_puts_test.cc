// Puts on the local lane: round trips, room in place, who may write how.

#include <thread>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "tests/client/local_testing.h"

namespace infercache {
namespace {

TEST(LocalPuts, TakeRoundTripsPerBatch) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  ASSERT_TRUE(client.Reaches());
  std::vector<std::string> keys;
  for (int i = 0; i < 100; ++i) keys.push_back(absl::StrCat("k", i));
  uint64_t before = daemon.stats().round_trips;
  for (const PutResult& result : client.PutAll(keys, "small")) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  EXPECT_EQ(daemon.stats().round_trips, before + 1);
  for (std::string& key : keys) key += "/large";
  before = daemon.stats().round_trips;
  for (const PutResult& result : client.PutAll(keys, std::string(kMaxInlineBytes + 1, 'l'))) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  EXPECT_EQ(daemon.stats().round_trips, before + 2);
  EXPECT_EQ(client.Read("k99/large"), std::string(kMaxInlineBytes + 1, 'l'));
}

TEST(LocalPuts, BatchesLargerThanAFrameOrTheNamespaceAreCut) {
  LocalDaemon daemon({.quota_bytes = 16 * kMiB, .chunk_bytes = 4 * kMiB});
  LocalClient client(daemon.path());
  std::vector<std::string> keys;
  for (int i = 0; i < 10'000; ++i) keys.push_back(absl::StrCat("a key of some length/", i));
  for (const PutResult& result : client.PutAll(keys, "v")) ASSERT_TRUE(result.status.ok());
  daemon.ns().Flush("");
  keys.resize(40);
  for (std::string& key : keys) key += "/large";
  for (const PutResult& result : client.PutAll(keys, std::string(kMiB, 'l'))) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  EXPECT_EQ(client.Read(keys.back()), std::string(kMiB, 'l'));
  EXPECT_EQ(daemon.namespace_stats().reservations, 0u);
}

TEST(LocalReservations, AreWrittenInPlaceAndInvisibleUntilCommitted) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  LocalClient other(daemon.path());
  ReserveResult reserved = client.Reserve("k", 2 * kMiB);
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  const std::span<std::byte> bytes = reserved.reservation->bytes();
  ASSERT_EQ(bytes.size(), 2 * kMiB);
  std::fill(bytes.begin(), bytes.end(), std::byte{'x'});
  EXPECT_EQ(other.Read("k"), "(miss)");
  EXPECT_EQ(client.Commit(*std::move(reserved.reservation)).outcome, PutOutcome::kStored);
  EXPECT_EQ(other.Read("k"), std::string(2 * kMiB, 'x'));
  EXPECT_TRUE(client.Reserve("k", 1).exists);
}

TEST(LocalReservations, AreAbortedWhenTheyAreDropped) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  { const ReserveResult reserved = client.Reserve("k", kMiB); }
  EXPECT_TRUE(Eventually([&] { return daemon.namespace_stats().reserved_bytes == 0; }));
  ReserveResult reserved = client.Reserve("k", kMiB);
  client.Destroy();
  EXPECT_EQ(daemon.namespace_stats().reservations, 1u);
  reserved = {};
  EXPECT_TRUE(Eventually([&] { return daemon.namespace_stats().reserved_bytes == 0; }))
      << "also after their client";
  EXPECT_EQ(daemon.namespace_stats().quarantined_bytes, 0u);
}

TEST(LocalReservations, CommitTakesOnlyTheClientsOwn) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  LocalClient other(daemon.path());
  ReserveResult reserved = client.Reserve("k", 10);
  EXPECT_TRUE(absl::IsInvalidArgument(other.Commit(*std::move(reserved.reservation)).status));
  EXPECT_TRUE(absl::IsInvalidArgument(client.Commit(Reservation()).status));
  EXPECT_TRUE(absl::IsInvalidArgument(client.Reserve("k", 0).status));
  EXPECT_TRUE(Eventually([&] { return daemon.namespace_stats().reservations == 0; }));
}

TEST(LocalReservations, OfADeadDaemonAreRefused) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  ReserveResult reserved = client.Reserve("k", kMiB);
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  daemon.Stop();
  daemon.Start();
  ASSERT_TRUE(client.Reaches());
  std::fill(reserved.reservation->bytes().begin(), reserved.reservation->bytes().end(),
            std::byte{'x'});
  EXPECT_TRUE(absl::IsUnavailable(client.Commit(*std::move(reserved.reservation)).status));
  EXPECT_EQ(client.Read("k"), "(miss)");
}

// The kernel refuses writable mappings: values travel.
TEST(LocalWriters, SendWhatTheyMayNotWriteInPlace) {
  LocalDaemon daemon({.writable_by_clients = false});
  LocalClient client(daemon.path());
  EXPECT_EQ(client.Put("small", "s").outcome, PutOutcome::kStored);
  const std::string large = std::string(5 * kMiB, 'a') + std::string(5 * kMiB + 1, 'b');
  const PutResult put = client.Put("large", large);
  EXPECT_EQ(put.outcome, PutOutcome::kStored) << put.status;
  EXPECT_EQ(client.Read("large"), large);
  ReserveResult reserved = client.Reserve("reserved", 1000);
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  std::fill(reserved.reservation->bytes().begin(), reserved.reservation->bytes().end(),
            std::byte{'r'});
  EXPECT_EQ(client.Commit(*std::move(reserved.reservation)).outcome, PutOutcome::kStored);
  EXPECT_EQ(client.Read("reserved"), std::string(1000, 'r'));
}

TEST(LocalPuts, ManyAtOnceFromManyThreads) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string key = absl::StrCat(t, "/", i);
        const std::string value(i % 2 == 0 ? 100 : 50'000, static_cast<char>('a' + t));
        ASSERT_EQ(client.Put(key, value).outcome, PutOutcome::kStored);
        ASSERT_EQ(client.Read(key), value);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Synchronous and asynchronous calls share the socket; each gets its own answers.
TEST(LocalPuts, WaitingAndCallbacksMix) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  std::atomic<int> stored{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string key = absl::StrCat(t, "/", i);
        if (t % 2 == 0) {
          ASSERT_EQ(client.Put(key, "v").outcome, PutOutcome::kStored);
          ++stored;
          continue;
        }
        static const std::string value(30'000, 'v');
        const PutItem item = {.key = key, .info = {}, .parts = {}, .value = {Bytes(value)}};
        client.transport().Put(std::span(&item, 1), absl::Now() + absl::Seconds(30),
                               [&](std::vector<PutResult> results, Reached) {
                                 if (results[0].outcome == PutOutcome::kStored) ++stored;
                               });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Eventually([&] { return stored == 400; })) << stored;
}

}  // namespace
}  // namespace infercache
