// Workers over both lanes that miss the same keys at the same time, and are killed while they
// compute, store and wait: each key is stored once, and nobody waits in vain.
//
//   flight_test [--rounds=N]

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "infercache/client.h"
#include "tests/chaos/flight_value.h"
#include "tests/chaos/number_option.h"
#include "tests/chaos/worker_process.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/test_client.h"

namespace infercache::chaos {
namespace {

using std::chrono::steady_clock;

int rounds = 300;

constexpr int kWorkers = 6;
// Far below the workers' deadline, far above what a busy machine takes.
constexpr int64_t kLostMs = 20'000;

class SingleFlight : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);  // a worker that is killed while it is told something
    // Nothing is evicted: 8 KiB for each object of 2,000 bytes, and records for all.
    const std::string quota = std::to_string(std::max(64, rounds * 4 / 100)) + "MiB";
    auto started =
        e2e::DaemonProcess::Start({.arguments = {"--capacity", quota, "--default-quota", quota}});
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
  }
  void TearDown() override {
    workers_.clear();
    if (daemon_ != nullptr) {
      EXPECT_EQ(daemon_->Stop(), 0);
    }
  }

  std::string Endpoint(int i) const {
    return i % 2 == 0 ? "unix:" + daemon_->socket_path() : daemon_->grpc_address();
  }
  std::unique_ptr<WorkerProcess> StartWorker(int i) {
    auto worker = WorkerProcess::Start(FLIGHT_WORKER_BINARY, {Endpoint(i)});
    EXPECT_TRUE(worker.ok()) << worker.status();
    const auto line = (*worker)->ReadLine(std::chrono::seconds(60));
    EXPECT_TRUE(line.ok() && *line == "ready") << line.status();
    return *std::move(worker);
  }
  void StartWorkers() {
    for (int i = 0; i < kWorkers; ++i) workers_.push_back(StartWorker(i));
  }
  void Kill(int i) {
    workers_[i]->Signal(SIGKILL);
    workers_[i]->AwaitDeath();
    workers_[i] = nullptr;
    ++kills_;
  }
  void Replace() {
    for (int i = 0; i < kWorkers; ++i) {
      if (workers_[i] == nullptr) workers_[i] = StartWorker(i);
    }
  }
  void TellAll(const std::string& line) {
    for (const auto& worker : workers_) ASSERT_TRUE(worker->Send(line).ok());
  }

  // The next line of any worker: who, and what. {-1, ...} when there is none in time.
  std::pair<int, std::string> NextLine() {
    const auto deadline = steady_clock::now() + std::chrono::milliseconds(2 * kLostMs);
    while (steady_clock::now() < deadline) {
      std::vector<pollfd> items;
      for (int i = 0; i < kWorkers; ++i) {
        if (workers_[i] == nullptr) continue;
        if (workers_[i]->HasLine()) return {i, *workers_[i]->ReadLine()};
        items.push_back({.fd = workers_[i]->output(), .events = POLLIN, .revents = 0});
      }
      if (poll(items.data(), items.size(), 1000) <= 0) continue;
      for (int i = 0; i < kWorkers; ++i) {
        const bool readable =
            workers_[i] != nullptr && std::any_of(items.begin(), items.end(), [&](pollfd item) {
              return item.fd == workers_[i]->output() && item.revents != 0;
            });
        if (!readable) continue;
        const auto line = workers_[i]->ReadLine(std::chrono::seconds(60));
        return {i, line.ok() ? *line : std::string(line.status().message())};
      }
    }
    return {-1, "nothing"};
  }
  // Takes lines until every living worker is done. Returns how many keys they computed.
  int AwaitDone(const std::string& round) {
    std::set<int> left;
    for (int i = 0; i < kWorkers; ++i) {
      if (workers_[i] != nullptr) left.insert(i);
    }
    int computed = 0;
    while (!left.empty()) {
      const auto [who, line] = NextLine();
      if (line.starts_with("computing ")) continue;
      int count = 0;
      long long took_ms = 0;
      if (who < 0 || std::sscanf(line.c_str(), ("done " + round + " %d %lld").c_str(), &count,
                                 &took_ms) != 2) {
        ADD_FAILURE() << "round " << round << ", worker " << who << ": " << line << ", "
                      << left.size() << " are left; " << Claims().DebugString();
        return computed;
      }
      EXPECT_LT(took_ms, kLostMs) << "round " << round << ": a waiter was lost";
      computed += count;
      left.erase(who);
    }
    return computed;
  }
  // The worker that computes a key of this round, of those that hold.
  int AwaitComputing() {
    while (true) {
      const auto [who, line] = NextLine();
      if (who < 0 || line.starts_with("computing ")) return who;
      ADD_FAILURE() << line;
    }
  }

  v1::NamespaceStats Stats() {
    e2e::TestClient client(daemon_->grpc_address());
    v1::GetStatsResponse stats;
    const grpc::Status status = client.Stats(stats);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return stats.namespaces(0);
  }
  v1::ClaimStats Claims() { return Stats().claims(); }
  // But for the one that asks.
  uint64_t CallsInFlight() {
    e2e::TestClient client(daemon_->grpc_address());
    v1::GetStatsResponse stats;
    EXPECT_TRUE(client.Stats(stats).ok());
    return stats.calls_in_flight() - 1;
  }
  void ExpectNothingIsClaimed() {
    const auto deadline = steady_clock::now() + std::chrono::seconds(30);
    bool nothing = false;
    while (!nothing && steady_clock::now() < deadline) {
      nothing = Claims().claims() + Claims().waiters() + CallsInFlight() == 0;
    }
    EXPECT_TRUE(nothing) << Claims().DebugString() << CallsInFlight()
                         << " streams have outlived their clients";
  }

  // --- Kinds of rounds. Each returns how many keys the survivors computed.

  int Undisturbed(const std::string& round) {
    TellAll("go " + round + " 1\n");
    return AwaitDone(round);
  }
  int KillTheWinner(const std::string& round) {
    TellAll("go " + round + " 1 hold\n");
    const int winner = AwaitComputing();
    if (winner < 0) return 0;
    Kill(winner);
    const int next = AwaitComputing();
    if (next < 0) return 0;
    EXPECT_TRUE(workers_[next]->Send("on\n").ok());
    return AwaitDone(round);
  }
  // Somewhere between the computation and the end of its commit, or after it.
  int KillTheWinnerAsItStores(const std::string& round) {
    TellAll("go " + round + " 1 hold\n");
    const int winner = AwaitComputing();
    if (winner < 0) return 0;
    EXPECT_TRUE(workers_[winner]->Send("on\n").ok());
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 1000));
    Kill(winner);
    // The claim passes on, unless the key was stored already.
    int computed = 0;
    std::set<int> left;
    for (int i = 0; i < kWorkers; ++i) {
      if (workers_[i] != nullptr) left.insert(i);
    }
    while (!left.empty()) {
      const auto [who, line] = NextLine();
      if (line.starts_with("computing ")) {
        EXPECT_TRUE(workers_[who]->Send("on\n").ok());
        continue;
      }
      int count = 0;
      if (who < 0 || std::sscanf(line.c_str(), ("done " + round + " %d").c_str(), &count) != 1) {
        ADD_FAILURE() << "round " << round << ", worker " << who << ": " << line;
        return computed;
      }
      computed += count;
      left.erase(who);
    }
    return computed;
  }
  int KillAWaiter(const std::string& round) {
    TellAll("go " + round + " 1 hold\n");
    const int winner = AwaitComputing();
    if (winner < 0) return 0;
    Kill((winner + 1 + static_cast<int>(random_() % (kWorkers - 1))) % kWorkers);
    EXPECT_TRUE(workers_[winner]->Send("on\n").ok());
    return AwaitDone(round);
  }
  int KillAnybody(const std::string& round) {
    TellAll("go " + round + " 1\n");
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 1500));
    Kill(static_cast<int>(random_() % kWorkers));
    return AwaitDone(round);
  }

  std::mt19937_64 random_{20261125};
  std::unique_ptr<e2e::DaemonProcess> daemon_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  uint64_t kills_ = 0;
};

TEST_F(SingleFlight, EachKeyIsStoredOnceWhoeverIsKilled) {
  StartWorkers();
  uint64_t undisturbed = 0, computed = 0;
  const auto start = steady_clock::now();
  for (int i = 0; i < rounds && !HasFailure(); ++i) {
    const std::string round = "round" + std::to_string(i);
    int most = 1, least = 0;
    int count = 0;
    switch (random_() % 20) {
      case 0:
        count = KillTheWinner(round);
        least = 1;
        break;
      case 1:
        count = KillTheWinnerAsItStores(round);
        break;
      case 2:
        count = KillAWaiter(round);
        least = 1;
        break;
      case 3:
        count = KillAnybody(round);
        break;
      default:
        count = Undisturbed(round);
        least = 1;
        ++undisturbed;
    }
    EXPECT_GE(count, least) << round;
    EXPECT_LE(count, most) << round << " was computed twice";
    computed += static_cast<uint64_t>(count);
    Replace();
  }
  ExpectNothingIsClaimed();
  const v1::NamespaceStats stats = Stats();
  EXPECT_EQ(stats.stored(), static_cast<uint64_t>(rounds)) << "a key was stored twice, or never";
  EXPECT_EQ(stats.evicted(), 0u);
  EXPECT_EQ(stats.reservations(), 0u);
  EXPECT_EQ(stats.claims().waits_missed(), 0u) << "a waiter was lost";
  std::cout << "  " << rounds << " rounds of " << kWorkers << " workers, " << undisturbed
            << " undisturbed, " << kills_ << " workers killed, in "
            << std::chrono::duration_cast<std::chrono::seconds>(steady_clock::now() - start).count()
            << " s\n  " << stats.stored() << " keys stored, " << stats.exists()
            << " puts of a key that was there, " << computed << " computed by who survived\n  "
            << stats.claims().ShortDebugString() << std::endl;
}

TEST_F(SingleFlight, OverlappingBatchesInOppositeOrder) {
  StartWorkers();
  constexpr int kKeys = 8;
  const int batches = std::max(20, rounds / 10);
  for (int i = 0; i < batches && !HasFailure(); ++i) {
    const std::string round = "batch" + std::to_string(i);
    for (int w = 0; w < kWorkers; ++w) {
      ASSERT_TRUE(workers_[w]
                      ->Send("go " + round + " " + std::to_string(kKeys) +
                             (w / 2 % 2 == 0 ? "\n" : " backwards\n"))
                      .ok());
    }
    EXPECT_EQ(AwaitDone(round), kKeys) << round;
  }
  ExpectNothingIsClaimed();
  EXPECT_EQ(Stats().stored(), static_cast<uint64_t>(batches * kKeys));
  std::cout << "  " << batches << " batches of " << kKeys << " keys; "
            << Claims().ShortDebugString() << std::endl;
}

TEST_F(SingleFlight, SixtyFourClientsOfBothLanesComputeAKeyOnce) {
  constexpr int kClients = 64;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kClients; ++i) {
    ClientOptions options;
    options.endpoint = Endpoint(i);
    options.deadline = kFlightDeadline;
    auto client = Client::Connect(std::move(options));
    ASSERT_TRUE(client.ok()) << client.status();
    clients.push_back(*std::move(client));
  }
  std::atomic<int> computed{0}, right{0};
  const std::string value = FlightValue("k");
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      const ComputeResult result = clients[i]->GetOrCompute("k", [&](ComputeSlot& slot) {
        computed.fetch_add(1);
        // All others are there.
        while (Claims().waiters() < kClients - 1) std::this_thread::yield();
        const auto room = slot.Allocate(value.size());
        if (!room.ok()) return room.status();
        std::copy_n(reinterpret_cast<const std::byte*>(value.data()), value.size(), room->begin());
        return absl::OkStatus();
      });
      if (!result.object.has_value()) return;
      const auto bytes = result.object->bytes();
      if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == value) {
        right.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed.load(), 1);
  EXPECT_EQ(right.load(), kClients);
  EXPECT_EQ(Stats().stored(), 1u);
  EXPECT_EQ(Claims().waits_hit(), kClients - 1u);
}

}  // namespace
}  // namespace infercache::chaos

int main(int argc, char** argv) {
  using infercache::chaos::NumberOption;
  infercache::chaos::rounds = NumberOption(argc, argv, "--rounds=", infercache::chaos::rounds);
  return RUN_ALL_TESTS();
}
