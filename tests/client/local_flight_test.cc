// Single flight below the Client, where ThreadSanitizer sees it: claims, waits and what ends them.

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "client/src/flight_batch.h"
#include "common/mutex.h"
#include "tests/client/fake_local_daemon.h"
#include "tests/client/local_testing.h"

namespace infercache {
namespace {

// One GetOrReserve, waited for.
class Flight {
 public:
  Flight(LocalClient& client, std::vector<std::string> keys,
         absl::Duration wait = absl::Seconds(30))
      : keys_(std::move(keys)), results_(keys_.size()) {
    const std::vector<std::string_view> views(keys_.begin(), keys_.end());
    FlightBatch::Start(client.transport(), views, /*known_missing=*/false, absl::Now() + wait,
                       absl::Seconds(60), [this](FlightBatch::Pieces pieces, bool last, Reached) {
                         MutexLock lock(&mu_);
                         for (GetOrReservePiece& piece : pieces) {
                           results_.at(piece.index) = std::move(piece.result);
                           ++known_;
                         }
                         if (last) done_ = true;
                         changed_.SignalAll();
                       });
  }
  ~Flight() { Await(); }

  std::vector<GetOrReserveResult>& Await() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    while (!done_) changed_.Wait(&mu_);
    EXPECT_EQ(known_, keys_.size());
    return results_;
  }
  GetOrReserveResult& AwaitOne() { return Await().front(); }
  bool done() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return done_;
  }

 private:
  const std::vector<std::string> keys_;
  Mutex mu_;
  CondVar changed_;
  std::vector<GetOrReserveResult> results_;  // the caller's once all are known
  size_t known_ ABSL_GUARDED_BY(mu_) = 0;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

uint64_t Waiters(const LocalDaemon& daemon) { return daemon.namespace_stats().claims.waiters; }
uint64_t ClaimsOf(const LocalDaemon& daemon) { return daemon.namespace_stats().claims.claims; }

TEST(LocalFlight, OneWinsAndTheOthersGetWhatItStores) {
  LocalDaemon daemon;
  LocalClient first(daemon.path()), second(daemon.path());
  Flight winner(first, {"k"});
  ASSERT_TRUE(winner.AwaitOne().claim.has_value()) << winner.AwaitOne().status;
  Flight waiting(second, {"k"});
  EXPECT_TRUE(Eventually([&] { return Waiters(daemon) == 1; }));
  EXPECT_FALSE(waiting.done());
  EXPECT_EQ(first.Put("k", "value").outcome, PutOutcome::kStored);
  ASSERT_TRUE(waiting.AwaitOne().object.has_value()) << waiting.AwaitOne().status;
  EXPECT_EQ(Text(waiting.AwaitOne().object->bytes()), "value");
  EXPECT_TRUE(waiting.AwaitOne().object->zero_copy());
}

TEST(LocalFlight, AWaitEndsWithItsDeadlineAndIsForgottenByTheDaemon) {
  LocalDaemon daemon;
  LocalClient first(daemon.path()), second(daemon.path());
  Flight winner(first, {"k"});
  ASSERT_TRUE(winner.AwaitOne().claim.has_value());
  const absl::Time start = absl::Now();
  Flight waiting(second, {"k"}, absl::Milliseconds(100));
  EXPECT_TRUE(absl::IsDeadlineExceeded(waiting.AwaitOne().status)) << waiting.AwaitOne().status;
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  EXPECT_TRUE(Eventually([&] { return Waiters(daemon) == 0; }));
  winner.AwaitOne().claim.reset();
  EXPECT_TRUE(Eventually([&] { return ClaimsOf(daemon) == 0; })) << "it passed on to nobody";
}

TEST(LocalFlight, TheEndOfAClientEndsItsWaitsAndPassesItsClaimsOn) {
  LocalDaemon daemon;
  LocalClient first(daemon.path()), second(daemon.path()), third(daemon.path());
  ASSERT_TRUE(first.Reaches() && second.Reaches() && third.Reaches());
  Flight winner(first, {"k"});
  ASSERT_TRUE(winner.AwaitOne().claim.has_value());
  Flight waiting(second, {"k"});
  EXPECT_TRUE(Eventually([&] { return Waiters(daemon) == 1; }));
  Flight behind(third, {"k"});
  EXPECT_TRUE(Eventually([&] { return Waiters(daemon) == 2; }));
  second.Destroy();
  EXPECT_TRUE(absl::IsCancelled(waiting.AwaitOne().status)) << waiting.AwaitOne().status;
  first.Destroy();
  winner.AwaitOne().claim.reset();
  EXPECT_TRUE(behind.AwaitOne().claim.has_value()) << behind.AwaitOne().status;
}

TEST(LocalFlight, ADaemonThatGoesEndsAllWaits) {
  LocalDaemon daemon;
  LocalClient first(daemon.path()), second(daemon.path());
  Flight winner(first, {"k"});
  ASSERT_TRUE(winner.AwaitOne().claim.has_value());
  Flight waiting(second, {"k"});
  EXPECT_TRUE(Eventually([&] { return Waiters(daemon) == 1; }));
  daemon.Stop();
  // By its Goodbye, or by the end of the connection.
  EXPECT_FALSE(waiting.AwaitOne().object.has_value());
  // A claim of the daemon before is worth nothing to the next one, and harms nothing there.
  daemon.Start();
  EXPECT_TRUE(Eventually([&] { return first.Reaches(); }));
  winner.AwaitOne().claim.reset();
  Flight again(first, {"k"});
  EXPECT_TRUE(again.AwaitOne().claim.has_value()) << again.AwaitOne().status;
}

TEST(LocalFlight, ThreadsOfOneClientComputeAKeyOnceToo) {
  LocalDaemon daemon;
  LocalClient client(daemon.path());
  ASSERT_TRUE(client.Reaches());
  constexpr int kThreads = 4, kKeys = 200;
  std::atomic<int> computed{0};
  const auto work = [&](bool backwards) {
    for (int i = 0; i < kKeys; ++i) {
      std::vector<std::string> keys = {absl::StrCat(i, "/a"), absl::StrCat(i, "/b")};
      if (backwards) std::swap(keys[0], keys[1]);
      for (const std::string& key : keys) {
        Flight flight(client, {key});
        GetOrReserveResult& result = flight.AwaitOne();
        if (result.claim.has_value()) {
          computed.fetch_add(1);
          EXPECT_EQ(client.Put(key, key).outcome, PutOutcome::kStored);
        } else {
          ASSERT_TRUE(result.object.has_value()) << result.status;
          EXPECT_EQ(Text(result.object->bytes()), key);
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i % 2 == 1);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed.load(), 2 * kKeys);
  EXPECT_EQ(daemon.namespace_stats().stored, uint64_t{2 * kKeys});
}

// Answers to GetOrReserve as a test writes them.
FakeLocalDaemon::Script Answering(std::function<void(const v1::GetOrReserve&, v1::ClaimAnswers*)> f,
                                  bool single_flight = true) {
  return [f = std::move(f), single_flight](const v1::LocalRequest& request,
                                           FakeLocalDaemon::Answer& answer) {
    if (request.has_hello()) {
      answer.response.mutable_welcome()->set_single_flight(single_flight);
    } else if (request.has_get_or_reserve()) {
      answer.response.clear_body();
      f(request.get_or_reserve(), answer.response.mutable_claim_answers());
    }
  };
}

TEST(HostileFlight, AnswersThatMakeNoSenseAreMisses) {
  struct Case {
    const char* name;
    std::function<void(const v1::GetOrReserve&, v1::ClaimAnswers*)> answer;
  };
  const Case cases[] = {
      {"none", [](const auto&, auto*) {}},
      {"too many",
       [](const auto&, auto* answers) {
         for (int i = 0; i < 3; ++i) answers->add_items()->set_state(v1::CLAIM_STATE_MISS);
       }},
      {"an unknown state",
       [](const auto&, auto* answers) {
         answers->add_items()->set_state(static_cast<v1::ClaimState>(99));
       }},
      {"a win without a claim",
       [](const auto&, auto* answers) { answers->add_items()->set_state(v1::CLAIM_STATE_WIN); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    FakeLocalDaemon daemon(Answering(c.answer));
    LocalClient client(daemon.path());
    Flight flight(client, {"k"});
    EXPECT_FALSE(flight.AwaitOne().claim.has_value());
    EXPECT_FALSE(flight.AwaitOne().status.ok());
  }
}

TEST(HostileFlight, AKeyThatIsThereAndIsNotIsComputedInTheEnd) {
  FakeLocalDaemon daemon(Answering(
      [](const auto&, auto* answers) { answers->add_items()->set_state(v1::CLAIM_STATE_HIT); }));
  LocalClient client(daemon.path());
  Flight flight(client, {"k"});
  EXPECT_TRUE(absl::IsDeadlineExceeded(flight.AwaitOne().status)) << flight.AwaitOne().status;
}

TEST(HostileFlight, ADaemonWithoutSingleFlightIsNotAsked) {
  std::atomic<int> asked{0};
  FakeLocalDaemon daemon(
      Answering([&](const auto&, auto*) { asked.fetch_add(1); }, /*single_flight=*/false));
  LocalClient client(daemon.path());
  Flight flight(client, {"k"});
  EXPECT_TRUE(absl::IsUnimplemented(flight.AwaitOne().status)) << flight.AwaitOne().status;
  EXPECT_EQ(asked.load(), 0);
}

}  // namespace
}  // namespace infercache
