// Single flight over frames: who computes, who waits, and what they are told.

#include <gmock/gmock.h>

#include <set>
#include <string>
#include <vector>

#include "common/limits.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

class FlightsTest : public LocalFixture {
 protected:
  void SetUp() override {
    ns_ = Create("default", 8 * kMiB).shared();
    Serve();
  }
  void TearDown() override {
    ns_.reset();
    LocalFixture::TearDown();
  }

  static v1::LocalRequest MakeAsk(const std::vector<std::string>& keys, uint64_t wait_ms = 60'000) {
    v1::LocalRequest request;
    for (const std::string& key : keys) request.mutable_get_or_reserve()->add_keys(key);
    request.mutable_get_or_reserve()->set_wait_ms(wait_ms);
    return request;
  }
  // One answer per key.
  static std::vector<v1::ClaimAnswer> AskAll(Worker& worker, const std::vector<std::string>& keys,
                                             uint64_t wait_ms = 60'000) {
    const auto answer = worker.raw().Ask(MakeAsk(keys, wait_ms));
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (!answer.ok()) return std::vector<v1::ClaimAnswer>(keys.size());
    const auto& items = answer->response.claim_answers().items();
    return {items.begin(), items.end()};
  }
  static v1::ClaimAnswer Ask(Worker& worker, const std::string& key, uint64_t wait_ms = 60'000) {
    return AskAll(worker, {key}, wait_ms).at(0);
  }
  static v1::ClaimEvent Await(Worker& worker) {
    const auto event = worker.raw().AwaitClaimEvent();
    EXPECT_TRUE(event.ok()) << event.status();
    return event.ok() ? *event : v1::ClaimEvent();
  }
  static uint64_t Reserve(Worker& worker, const std::string& key, uint64_t claim) {
    v1::ReserveItem item = MakeItem(key, 4);
    item.set_claim(claim);
    return worker.ReserveAll({item}).at(0).reservation();
  }
  static void GiveUp(Worker& worker, uint64_t claim) {
    v1::LocalRequest request;
    request.mutable_give_up()->add_claims(claim);
    EXPECT_TRUE(worker.raw().Ask(request).ok());
  }
  store::ClaimStats claims() const { return ns_->Stats().claims; }

  std::shared_ptr<store::Namespace> ns_;
};

TEST_F(FlightsTest, TheFirstComputesAndTheOthersAreToldWhenItIsThere) {
  Worker a = Open(), b = Open();
  EXPECT_TRUE(a.welcome().single_flight());
  const v1::ClaimAnswer won = Ask(a, "k");
  ASSERT_EQ(won.state(), v1::CLAIM_STATE_WIN);
  EXPECT_NE(won.claim(), 0u);
  EXPECT_EQ(won.claim_ms(), kDefaultClaimMs);
  const auto answers = AskAll(b, {"k", "mine"});
  EXPECT_EQ(answers[0].state(), v1::CLAIM_STATE_WAIT);
  EXPECT_EQ(answers[1].state(), v1::CLAIM_STATE_WIN);
  const uint64_t reservation = Reserve(a, "k", won.claim());
  EXPECT_EQ(a.Commit(reservation).outcome(), v1::LOCAL_PUT_STORED);
  const v1::ClaimEvent event = Await(b);
  EXPECT_EQ(event.answer().state(), v1::CLAIM_STATE_HIT);
  EXPECT_EQ(event.index(), 0u);
  EXPECT_NE(event.request(), 0u);
  EXPECT_TRUE(b.Get("k", clock_.NowMs()).has_value());
  EXPECT_EQ(Ask(a, "k").state(), v1::CLAIM_STATE_HIT);
}

TEST_F(FlightsTest, AnInlinePutOfAnybodyEndsTheWait) {
  Worker a = Open(), b = Open(), c = Open();
  Ask(a, "k");
  Ask(b, "k");
  c.PutInline("k", "value");
  EXPECT_EQ(Await(b).answer().state(), v1::CLAIM_STATE_HIT);
}

TEST_F(FlightsTest, TheEndOfASessionPassesItsClaimsOnAtOnce) {
  Worker b = Open();
  {
    Worker a = Open();
    EXPECT_EQ(Ask(a, "k").state(), v1::CLAIM_STATE_WIN);
    EXPECT_EQ(Ask(b, "k").state(), v1::CLAIM_STATE_WAIT);
  }
  const v1::ClaimEvent event = Await(b);
  EXPECT_EQ(event.answer().state(), v1::CLAIM_STATE_WIN);
  EXPECT_EQ(b.Commit(Reserve(b, "k", event.answer().claim())).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(claims().claims, 0u);
}

TEST_F(FlightsTest, AReservationThatComesToNothingPassesItsClaimOn) {
  Worker a = Open(), b = Open(), c = Open(), d = Open();
  const uint64_t reservation = Reserve(a, "k", Ask(a, "k").claim());
  for (Worker* worker : {&b, &c, &d}) {
    EXPECT_EQ(Ask(*worker, "k").state(), v1::CLAIM_STATE_WAIT);
  }
  a.Abort({reservation});
  const uint64_t second = Await(b).answer().claim();
  GiveUp(b, second);
  const v1::ClaimEvent third = Await(c);
  EXPECT_EQ(third.answer().state(), v1::CLAIM_STATE_WIN);
  GiveUp(a, third.answer().claim());  // which is not its own
  EXPECT_EQ(claims().waiters, 1u);
  GiveUp(c, third.answer().claim());
  EXPECT_EQ(Await(d).answer().state(), v1::CLAIM_STATE_WIN);
}

TEST_F(FlightsTest, AWaitEndsAtItsDeadline) {
  Worker a = Open(), b = Open();
  Ask(a, "k");
  EXPECT_EQ(Ask(b, "k", /*wait_ms=*/100).state(), v1::CLAIM_STATE_WAIT);
  clock_.AdvanceMs(100);
  ns_->Maintain();
  const v1::ClaimEvent event = Await(b);
  EXPECT_EQ(event.answer().state(), v1::CLAIM_STATE_MISS);
  EXPECT_EQ(event.answer().code(), static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
  const v1::ClaimAnswer at_once = Ask(b, "k", /*wait_ms=*/0);
  EXPECT_EQ(at_once.state(), v1::CLAIM_STATE_MISS);
  EXPECT_EQ(at_once.code(), 0u);
}

TEST_F(FlightsTest, WhoMayNotPutNeverWins) {
  Worker reader = Open({.namespace_name = "default", .read_only = true}), writer = Open();
  EXPECT_EQ(Ask(reader, "k").state(), v1::CLAIM_STATE_MISS);
  const v1::ClaimAnswer won = Ask(writer, "k");
  EXPECT_EQ(Ask(reader, "k").state(), v1::CLAIM_STATE_WAIT);
  GiveUp(writer, won.claim());
  EXPECT_EQ(Await(reader).answer().state(), v1::CLAIM_STATE_MISS);
}

TEST_F(FlightsTest, TheSameKeyTwiceWaitsForItself) {
  Worker a = Open();
  const auto answers = AskAll(a, {"k", "k"});
  EXPECT_EQ(answers[0].state(), v1::CLAIM_STATE_WIN);
  EXPECT_EQ(answers[1].state(), v1::CLAIM_STATE_WAIT);
  a.PutInline("k", "value");
  EXPECT_EQ(Await(a).index(), 1u);
}

TEST_F(FlightsTest, EndsWithTheDaemonsDrain) {
  Worker a = Open(), b = Open();
  Ask(a, "k");
  Ask(b, "k");
  server_->BeginDrain();
  // The claim may pass on to the one before the other is told to go.
  v1::ClaimEvent event = Await(b);
  EXPECT_NE(event.answer().state(), v1::CLAIM_STATE_HIT);
  EXPECT_TRUE(b.raw().AwaitGoodbye().ok());
  EXPECT_TRUE(absl::IsUnavailable(b.raw().Ask(MakeAsk({"other"})).status()));
  EXPECT_TRUE(Eventually([this] { return claims().claims + claims().waiters == 0; }));
}

// Each event was put in front of all others: the square of their number, on the session's thread.
TEST_F(FlightsTest, ADrainTellsAllThatASessionWaitsFor) {
  Worker a = Open(), b = Open();
  for (size_t asked = 0; asked < kMaxClaimsPerParty; asked += kMaxItemsPerFrame) {
    std::vector<std::string> keys;
    for (size_t i = 0; i < kMaxItemsPerFrame; ++i) keys.push_back(std::to_string(asked + i));
    AskAll(a, keys);
    AskAll(b, keys);
  }
  ASSERT_EQ(claims().waiters, kMaxClaimsPerParty);
  server_->BeginDrain();
  std::set<std::pair<uint64_t, uint32_t>> told;
  while (told.size() < kMaxClaimsPerParty) {
    const v1::ClaimEvent event = Await(b);
    ASSERT_TRUE(told.emplace(event.request(), event.index()).second);
  }
  EXPECT_TRUE(b.raw().AwaitGoodbye().ok());
}

TEST_F(FlightsTest, EndsWithItsNamespace) {
  Worker a = Open(), b = Open();
  Ask(a, "k");
  Ask(b, "k");
  ASSERT_TRUE(store_->DeleteNamespace("default").ok());
  EXPECT_EQ(Await(b).answer().code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  const auto late = Ask(b, "other");
  EXPECT_EQ(late.state(), v1::CLAIM_STATE_MISS);
  EXPECT_EQ(late.code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
}

TEST_F(FlightsTest, RefusesWhatMakesNoSense) {
  Worker worker = Open();
  const auto refusal = [&](v1::LocalRequest request) {
    return worker.raw().Ask(std::move(request)).status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(refusal(MakeAsk({""}))));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal(MakeAsk({std::string(kMaxKeyBytes + 1, 'k')}))));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal(MakeAsk({"k"}, kMaxWaitMs + 1))));
  v1::LocalRequest ask = MakeAsk({"k"}, kMaxWaitMs);
  ask.mutable_get_or_reserve()->set_claim_ms(kMaxClaimMs + 1);
  EXPECT_TRUE(absl::IsInvalidArgument(refusal(ask)));
  EXPECT_EQ(claims().claims, 0u);
  EXPECT_EQ(Ask(worker, "k").state(), v1::CLAIM_STATE_WIN);

  Worker old = Open({.namespace_name = "default", .single_flight = false});
  EXPECT_FALSE(old.welcome().single_flight());
  EXPECT_TRUE(absl::IsFailedPrecondition(old.raw().Ask(MakeAsk({"k"})).status()));
}

TEST_F(FlightsTest, AClaimThatIsNotTheirsChangesNothingAboutAPut) {
  Worker a = Open(), b = Open();
  const uint64_t claim = Ask(a, "k").claim();
  for (const uint64_t other : {claim, claim + 1000}) {
    const uint64_t reservation = Reserve(b, "k", other);
    EXPECT_NE(reservation, 0u);
    b.Abort({reservation});
  }
  a.Abort({Reserve(a, "another key", claim)});
  EXPECT_EQ(claims().claims, 1u) << "it is still the first one's";
}

TEST_F(FlightsTest, ASessionHasALimit) {
  Worker worker = Open();
  size_t won = 0;
  while (won < kMaxClaimsPerParty) {
    std::vector<std::string> keys;
    for (size_t i = 0; i < kMaxItemsPerFrame; ++i) keys.push_back(std::to_string(won + i));
    for (const v1::ClaimAnswer& answer : AskAll(worker, keys)) {
      ASSERT_EQ(answer.state(), v1::CLAIM_STATE_WIN);
      ++won;
    }
  }
  const v1::ClaimAnswer refused = Ask(worker, "one more");
  EXPECT_EQ(refused.state(), v1::CLAIM_STATE_MISS);
  EXPECT_EQ(refused.code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(claims().claims, kMaxClaimsPerParty);
}

}  // namespace
}  // namespace infercache::local
