// Who computes and who waits, under a clock that the test moves.

#include "server/store/claims.h"

#include <gmock/gmock.h>

#include <string>
#include <thread>
#include <vector>

#include "common/limits.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using Outcome = ClaimEvent::Outcome;
using State = Claims::Joined::State;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Remembers what it is told: "7 hit", "7 win", "7 miss", "closed".
class Recorder final : public ClaimParty {
 public:
  void OnClaimEvents(std::span<const ClaimEvent> events) override {
    MutexLock lock(&mu_);
    for (const ClaimEvent& event : events) {
      const char* name = event.outcome == Outcome::kHit   ? " hit"
                         : event.outcome == Outcome::kWin ? " win"
                                                          : " miss";
      heard_.push_back(std::to_string(event.ticket) + name);
      if (event.outcome == Outcome::kMiss) why_ = std::string(event.why.message());
    }
  }
  void OnClaimsClosed(const absl::Status&) override {
    MutexLock lock(&mu_);
    heard_.push_back("closed");
  }
  std::vector<std::string> Heard() {
    MutexLock lock(&mu_);
    return std::exchange(heard_, {});
  }
  std::string why() {
    MutexLock lock(&mu_);
    return why_;
  }

 private:
  Mutex mu_;
  std::vector<std::string> heard_ ABSL_GUARDED_BY(mu_);
  std::string why_ ABSL_GUARDED_BY(mu_);
};

std::string Wins(uint64_t ticket) { return std::to_string(ticket) + " win"; }
std::string Hits(uint64_t ticket) { return std::to_string(ticket) + " hit"; }
std::string Misses(uint64_t ticket) { return std::to_string(ticket) + " miss"; }

class ClaimsTest : public ::testing::Test {
 protected:
  std::shared_ptr<Recorder> Enter() {
    auto party = std::make_shared<Recorder>();
    EXPECT_TRUE(claims_.Enter(party).ok());
    return party;
  }
  uint64_t Win(const std::shared_ptr<Recorder>& party, const Hash128& key = kKey) {
    return Must(party, key, State::kWon);
  }
  uint64_t Wait(const std::shared_ptr<Recorder>& party, const Hash128& key = kKey) {
    return Must(party, key, State::kWaiting);
  }
  void ExpectEmpty() {
    EXPECT_EQ(claims_.stats().claims, 0u);
    EXPECT_EQ(claims_.stats().waiters, 0u);
  }

  static constexpr Hash128 kKey = {1, 1}, kOther = {2, 2};
  const Claims::Request request_ = {.wait_ms = 500, .claim_ms = 1000};
  ManualClock clock_;
  Claims claims_{clock_, {.per_party = 4, .total = 7}};

 private:
  uint64_t Must(const std::shared_ptr<Recorder>& party, const Hash128& key, State state) {
    const auto joined = claims_.Join(*party, key, request_);
    EXPECT_TRUE(joined.ok()) << joined.status();
    EXPECT_EQ(joined->state, state);
    return joined->ticket;
  }
};

TEST_F(ClaimsTest, TheFirstWinsTheOthersWaitAndGetWhatBecomesVisible) {
  const auto a = Enter(), b = Enter(), c = Enter();
  Win(a);
  const uint64_t second = Wait(b), third = Wait(c);
  EXPECT_EQ(claims_.stats().waiters, 2u);
  claims_.OnVisible(kOther);
  EXPECT_THAT(b->Heard(), IsEmpty());
  claims_.OnVisible(kKey);
  EXPECT_THAT(a->Heard(), IsEmpty());
  EXPECT_THAT(b->Heard(), ElementsAre(Hits(second)));
  EXPECT_THAT(c->Heard(), ElementsAre(Hits(third)));
  EXPECT_EQ(claims_.stats().waits_hit, 2u);
  ExpectEmpty();
}

TEST_F(ClaimsTest, AClaimThatIsGivenUpPassesOnInOrderOfArrival) {
  const auto a = Enter(), b = Enter(), c = Enter();
  const uint64_t first = Win(a), second = Wait(b), third = Wait(c);
  EXPECT_TRUE(claims_.GiveUp(*a, first));
  EXPECT_FALSE(claims_.GiveUp(*a, first)) << "it is gone";
  EXPECT_THAT(b->Heard(), ElementsAre(Wins(second)));
  EXPECT_THAT(c->Heard(), IsEmpty());
  EXPECT_TRUE(claims_.GiveUp(*b, second));
  EXPECT_THAT(c->Heard(), ElementsAre(Wins(third)));
  EXPECT_TRUE(claims_.GiveUp(*c, third));
  ExpectEmpty();
  EXPECT_EQ(claims_.stats().granted, 3u);
}

TEST_F(ClaimsTest, APartyThatLeavesPassesItsClaimsOnAndForgetsItsWaits) {
  const auto a = Enter(), b = Enter();
  Win(a);
  Win(b, kOther);
  Wait(a);  // for its own claim
  Wait(a, kOther);
  const uint64_t second = Wait(b);
  claims_.Leave(*a);
  EXPECT_THAT(b->Heard(), ElementsAre(Wins(second)));
  claims_.Leave(*b);
  claims_.Leave(*b);
  EXPECT_THAT(a->Heard(), IsEmpty());
  ExpectEmpty();
}

TEST_F(ClaimsTest, AClaimThatTakesTooLongPassesOn) {
  const auto a = Enter(), b = Enter();
  Win(a);
  clock_.AdvanceMs(999);
  const uint64_t second = Wait(b);
  claims_.Expire();
  EXPECT_THAT(b->Heard(), IsEmpty());
  clock_.AdvanceMs(1);
  claims_.Expire();
  EXPECT_THAT(b->Heard(), ElementsAre(Wins(second)));
  // Its own time starts with the win, and there is nobody after it.
  clock_.AdvanceMs(999);
  claims_.Expire();
  EXPECT_EQ(claims_.stats().claims, 1u);
  clock_.AdvanceMs(1);
  claims_.Expire();
  ExpectEmpty();
}

TEST_F(ClaimsTest, AWaitEndsAtItsDeadlineWithAMiss) {
  const auto a = Enter(), b = Enter();
  const uint64_t first = Win(a), second = Wait(b);
  clock_.AdvanceMs(500);
  // Also when the claim passes on at the same moment, which is no time to begin.
  EXPECT_TRUE(claims_.GiveUp(*a, first));
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(second)));
  EXPECT_EQ(b->why(), "the key was not computed in time");
  ExpectEmpty();
  Win(a);
  const uint64_t third = Wait(b);
  clock_.AdvanceMs(500);
  claims_.Expire();
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(third)));
  EXPECT_EQ(claims_.stats().claims, 1u);
}

TEST_F(ClaimsTest, AClaimBoundToAReservationHasNoDeadline) {
  const auto a = Enter(), b = Enter();
  const uint64_t first = Win(a);
  EXPECT_FALSE(claims_.BindToReservation(*b, first, kKey)) << "another's";
  EXPECT_FALSE(claims_.BindToReservation(*a, first, kOther)) << "of another key";
  EXPECT_FALSE(claims_.BindToReservation(*a, first + 1, kKey));
  const uint64_t second = Wait(b);
  EXPECT_FALSE(claims_.BindToReservation(*b, second, kKey)) << "no claim";
  EXPECT_TRUE(claims_.BindToReservation(*a, first, kKey));
  clock_.AdvanceMs(100'000);
  claims_.Expire();
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(second)));
  EXPECT_EQ(claims_.stats().claims, 1u);
  EXPECT_TRUE(claims_.GiveUp(*a, first));
  ExpectEmpty();
}

TEST_F(ClaimsTest, NobodyElsesTicketCanBeGivenUp) {
  const auto a = Enter(), b = Enter();
  const uint64_t first = Win(a);
  EXPECT_FALSE(claims_.GiveUp(*b, first));
  EXPECT_EQ(claims_.stats().claims, 1u);
}

TEST_F(ClaimsTest, WhoDoesNotWaitOrMayNotWinIsToldSo) {
  const auto a = Enter(), b = Enter();
  const auto join = [&](bool may_win, uint64_t wait_ms) {
    return *claims_.Join(*b, kKey, {.wait_ms = wait_ms, .claim_ms = 1, .may_win = may_win});
  };
  EXPECT_EQ(join(false, 500).state, State::kNobody) << "nobody computes it";
  const uint64_t first = Win(a);
  EXPECT_EQ(join(true, 0).state, State::kNobody);
  EXPECT_EQ(join(false, 0).state, State::kNobody);
  const uint64_t second = join(false, 500).ticket;
  EXPECT_TRUE(claims_.GiveUp(*a, first));
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(second)));
  EXPECT_EQ(b->why(), "nobody computes the key any more");
  ExpectEmpty();
}

TEST_F(ClaimsTest, HasLimitsForOnePartyAndForAll) {
  const auto a = Enter(), b = Enter();
  for (uint64_t i = 0; i < 4; ++i) Win(a, {i, i});
  const auto fifth = claims_.Join(*a, {4, 4}, request_);
  ASSERT_TRUE(absl::IsResourceExhausted(fifth.status())) << fifth.status();
  EXPECT_NE(fifth.status().message().find("4 keys"), absl::string_view::npos);
  for (uint64_t i = 0; i < 3; ++i) Wait(b, {i, i});
  const auto eighth = claims_.Join(*b, {3, 3}, request_);
  ASSERT_TRUE(absl::IsResourceExhausted(eighth.status())) << eighth.status();
  EXPECT_NE(eighth.status().message().find("7 claims"), absl::string_view::npos);
  claims_.OnVisible({0, 0});
  Wait(b, {3, 3});
}

TEST_F(ClaimsTest, ClosingEndsAllAndAdmitsNobody) {
  const auto a = Enter(), b = Enter();
  Win(a);
  const uint64_t second = Wait(b);
  claims_.Close(absl::UnavailableError("draining"));
  claims_.Close(absl::UnavailableError("again"));
  EXPECT_THAT(a->Heard(), ElementsAre("closed"));
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(second), "closed"));
  EXPECT_EQ(b->why(), "draining");
  ExpectEmpty();
  EXPECT_TRUE(absl::IsUnavailable(claims_.Join(*a, kKey, request_).status()));
  EXPECT_TRUE(absl::IsUnavailable(claims_.Enter(std::make_shared<Recorder>())));
  claims_.Leave(*a);
}

// --- With the store ---

class SingleFlight : public StoreFixture {
 protected:
  using State = Namespace::GetOrReserved::State;

  std::shared_ptr<Recorder> Enter() {
    auto party = std::make_shared<Recorder>();
    EXPECT_TRUE(ns_->claims().Enter(party).ok());
    return party;
  }
  Namespace::GetOrReserved Ask(const std::shared_ptr<Recorder>& party, std::string_view key,
                               const Hash128& fingerprint = Fingerprint().hash()) {
    const auto asked =
        ns_->GetOrReserve({key, fingerprint}, *party, {.wait_ms = 60'000, .claim_ms = 60'000});
    EXPECT_TRUE(asked.ok()) << asked.status();
    return *asked;
  }

  NamespaceVerbs ns_ = Create("default", 16 * kMiB, 8192);  // nothing is evicted
};

TEST_F(SingleFlight, AnyCommitOfTheKeyWakesWhoWaits) {
  const auto a = Enter(), b = Enter();
  EXPECT_EQ(Ask(a, "k").state, State::kWin);
  const auto waiting = Ask(b, "k");
  EXPECT_EQ(waiting.state, State::kWait);
  ns_.MustPut("other", "v");
  EXPECT_THAT(b->Heard(), IsEmpty());
  ns_.MustPut("k", "v");  // by somebody who claimed nothing
  EXPECT_THAT(b->Heard(), ElementsAre(Hits(waiting.ticket)));
  EXPECT_EQ(Ask(a, "k").state, State::kHit);
  EXPECT_EQ(ns_->Stats().claims.claims, 0u);
  ns_->claims().Leave(*a);
  ns_->claims().Leave(*b);
}

TEST_F(SingleFlight, FingerprintsKeepClaimsApart) {
  const auto a = Enter(), b = Enter();
  const Hash128 one = {1, 2}, two = {3, 4};
  EXPECT_EQ(Ask(a, "k", one).state, State::kWin);
  EXPECT_EQ(Ask(b, "k", two).state, State::kWin);
  ns_.MustPut("k", "v", {.fingerprint = one});
  EXPECT_EQ(ns_->Stats().claims.claims, 1u);
  ns_->claims().Leave(*a);
  ns_->claims().Leave(*b);
}

TEST_F(SingleFlight, EndsWithItsNamespace) {
  const auto a = Enter(), b = Enter();
  Ask(a, "k");
  const auto waiting = Ask(b, "k");
  const auto ns = Create("gone");
  ASSERT_TRUE(store_->DeleteNamespace("default").ok());
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(waiting.ticket), "closed"));
  EXPECT_EQ(b->why(), "namespace default is deleted");
  EXPECT_THAT(a->Heard(), ElementsAre("closed"));
  ns_.Release();
}

TEST_F(SingleFlight, UpkeepEndsWhatIsOver) {
  const auto a = Enter(), b = Enter();
  Ask(a, "k");
  const auto waiting = Ask(b, "k");
  clock_.AdvanceMs(60'000);
  ns_->Maintain();
  EXPECT_THAT(b->Heard(), ElementsAre(Misses(waiting.ticket)));
  EXPECT_EQ(ns_->Stats().claims.claims, 0u);
  ns_->claims().Leave(*a);
  ns_->claims().Leave(*b);
}

// Threads that miss and commit the same keys at the same time: each is computed once, and nobody
// waits for ever.
TEST_F(SingleFlight, NoWakeUpIsLost) {
  constexpr int kThreads = 4, kKeys = 2000;
  std::atomic<int> computed{0};
  const auto work = [&] {
    const auto party = Enter();
    for (int i = 0; i < kKeys; ++i) {
      const std::string key = "key/" + std::to_string(i);
      const auto asked = Ask(party, key);
      if (asked.state == State::kWin) {
        computed.fetch_add(1);
        ns_.MustPut(key, "v");
      } else if (asked.state == State::kWait) {
        // There is nothing but the event to wait for.
        std::vector<std::string> heard;
        while (heard.empty()) {
          heard = party->Heard();
          std::this_thread::yield();
        }
        EXPECT_THAT(heard, ElementsAre(Hits(asked.ticket)));
      }
      EXPECT_TRUE(ns_.Has(key));
    }
    ns_->claims().Leave(*party);
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed.load(), kKeys);
  EXPECT_EQ(ns_->Stats().stored, uint64_t{kKeys});
  EXPECT_EQ(ns_->Stats().exists, 0u);
  EXPECT_EQ(ns_->Stats().claims.waiters, 0u);
}

}  // namespace
}  // namespace infercache::store
