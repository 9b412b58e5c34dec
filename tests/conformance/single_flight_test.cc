// Of the clients that miss a key one computes it, and all get what it made.

#include <atomic>
#include <stdexcept>
#include <thread>

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

using ::testing::Each;

template <typename Transport>
class SingleFlight : public Conformance<Transport> {
 protected:
  // Computes `value`.
  static ComputeFunction Make(std::string value, std::atomic<int>* calls = nullptr) {
    return [value = std::move(value), calls](ComputeSlot& slot) {
      if (calls != nullptr) calls->fetch_add(1);
      const auto room = slot.Allocate(value.size());
      if (!room.ok()) return room.status();
      std::copy(Bytes(value).begin(), Bytes(value).end(), room->begin());
      return absl::OkStatus();
    };
  }
  static std::string ValueOf(const ComputeResult& result) {
    EXPECT_TRUE(result.status.ok()) << result.status;
    return result.object.has_value() ? Text(result.object->bytes()) : "(nothing)";
  }
  std::string GetOrCompute(Client& client, std::string_view key, const std::string& value) {
    return ValueOf(client.GetOrCompute(key, Make(value)));
  }
  // What a completed SubmitGetOrReserve says of its keys, waited for.
  static std::vector<GetOrReserveResult> Await(Client& client, RequestId id, size_t count) {
    std::vector<GetOrReserveResult> results(count);
    for (bool more = true; more;) {
      for (Completion& completion : client.Drain()) {
        EXPECT_EQ(completion.id, id);
        for (GetOrReservePiece& piece : completion.get_or_reserve) {
          results.at(piece.index) = std::move(piece.result);
        }
        more = completion.more;
      }
    }
    return results;
  }
  GetOrReserveResult GetOrReserve(Client& client, std::string_view key,
                                  const ComputeOptions& options = {}) {
    const RequestId id = client.SubmitGetOrReserve(std::span(&key, 1), options);
    return std::move(Await(client, id, 1)[0]);
  }
  // Until so many wait for others.
  void AwaitWaiters(uint64_t count) {
    while (this->daemon().Stats().claims.waiters != count) std::this_thread::yield();
  }
  void ExpectNothingIsClaimed() {
    // The end of a claim over gRPC is a message of its own.
    while (this->daemon().Stats().claims.claims != 0) std::this_thread::yield();
    EXPECT_EQ(this->daemon().Stats().claims.waiters, 0u);
  }
};
TYPED_TEST_SUITE(SingleFlight, Transports, TransportName);
template <typename Transport>
using LargeFlights = SingleFlight<Transport>;
TYPED_TEST_SUITE(LargeFlights, RoomyTransports, TransportName);

TYPED_TEST(SingleFlight, ComputesWhatIsMissingAndStoresIt) {
  std::atomic<int> calls{0};
  const ComputeResult first = this->client_->GetOrCompute("k", this->Make("value", &calls));
  EXPECT_EQ(this->ValueOf(first), "value");
  EXPECT_TRUE(first.computed);
  EXPECT_TRUE(first.stored.ok()) << first.stored;
  const ComputeResult second = this->client_->GetOrCompute("k", this->Make("other", &calls));
  EXPECT_EQ(this->ValueOf(second), "value");
  EXPECT_FALSE(second.computed);
  EXPECT_EQ(calls.load(), 1);
  EXPECT_EQ(this->Get("k"), "value");
  this->ExpectNothingIsClaimed();
}

TYPED_TEST(SingleFlight, KeepsPartsAndInfo) {
  const std::vector<PartSpec> parts = {
      {.dtype = DataType::kFloat32, .shape = {3}, .size_bytes = 12}};
  const auto compute = [&](ComputeSlot& slot) {
    EXPECT_EQ(slot.key(), "k");
    EXPECT_EQ(slot.index(), 0u);
    ObjectInfo info;
    info.kind = ObjectKind::kKv;
    info.compute_cost_ms = 7;
    const auto room = slot.Allocate(12, info, parts);
    std::fill(room->begin(), room->end(), std::byte{'x'});
    EXPECT_TRUE(absl::IsInvalidArgument(slot.Allocate(12).status())) << "only once";
    return room.status();
  };
  const ComputeResult computed = this->client_->GetOrCompute("k", compute);
  ASSERT_TRUE(computed.object.has_value()) << computed.status;
  const GetResult got = this->client_->Get("k");
  ASSERT_TRUE(got.hit());
  for (const Object* object : {&*computed.object, &*got.object}) {
    EXPECT_EQ(Text(object->bytes()), std::string(12, 'x'));
    EXPECT_EQ(object->parts(), parts);
    EXPECT_EQ(object->info().kind, ObjectKind::kKv);
    EXPECT_EQ(object->info().compute_cost_ms, 7);
  }
}

TYPED_TEST(SingleFlight, SixtyFourClientsThatMissAKeyComputeItOnce) {
  constexpr int kClients = 64;
  std::atomic<int> calls{0};
  const std::string value = Pattern(100'000, 1);
  const ComputeFunction compute = [&](ComputeSlot& slot) {
    // Everybody else is there.
    this->AwaitWaiters(kClients - 1);
    return this->Make(value, &calls)(slot);
  };
  std::vector<std::string> got(kClients);
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      const auto client = this->Connect();
      got[i] = this->ValueOf(client->GetOrCompute("k", compute));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(calls.load(), 1);
  EXPECT_THAT(got, Each(value));
  EXPECT_EQ(this->daemon().Stats().stored, 1u);
  EXPECT_EQ(this->daemon().Stats().claims.waits_hit, kClients - 1u);
  this->ExpectNothingIsClaimed();
}

TYPED_TEST(SingleFlight, AFailureIsTheKeysResultAndPassesTheClaimOn) {
  const auto other = this->Connect();
  std::thread waiting;
  std::string got;
  const ComputeResult failed = this->client_->GetOrCompute("k", [&](ComputeSlot&) {
    waiting = std::thread([&] { got = this->GetOrCompute(*other, "k", "second"); });
    this->AwaitWaiters(1);
    return absl::AbortedError("no luck");
  });
  EXPECT_TRUE(absl::IsAborted(failed.status)) << failed.status;
  EXPECT_FALSE(failed.object.has_value());
  waiting.join();
  EXPECT_EQ(got, "second");
  this->ExpectNothingIsClaimed();
}

TYPED_TEST(SingleFlight, AFailureAfterAllocateLeavesNothing) {
  const ComputeResult failed = this->client_->GetOrCompute("k", [](ComputeSlot& slot) {
    EXPECT_TRUE(slot.Allocate(1000).ok());
    return absl::AbortedError("no luck");
  });
  EXPECT_TRUE(absl::IsAborted(failed.status)) << failed.status;
  this->ExpectNothingIsClaimed();
  EXPECT_TRUE(this->client_->Ping().ok());
  EXPECT_EQ(this->daemon().Stats().reservations, 0u);
  const ComputeResult nothing =
      this->client_->GetOrCompute("k", [](ComputeSlot&) { return absl::OkStatus(); });
  EXPECT_TRUE(absl::IsFailedPrecondition(nothing.status)) << nothing.status;
}

TYPED_TEST(SingleFlight, AnExceptionGoesThroughAndPassesTheClaimsOn) {
  const std::vector<std::string_view> keys = {"a", "b", "c"};
  EXPECT_THROW(this->client_->GetOrCompute(
                   keys, [](ComputeSlot&) -> absl::Status { throw std::runtime_error("no luck"); }),
               std::runtime_error);
  this->ExpectNothingIsClaimed();
  EXPECT_EQ(this->GetOrCompute(*this->client_, "a", "value"), "value");
}

TYPED_TEST(SingleFlight, BatchesInOppositeOrderDoNotWaitInACircle) {
  constexpr int kRounds = 50, kKeys = 6;
  const auto other = this->Connect();
  std::atomic<int> calls{0};
  const auto work = [&](Client& client, bool backwards) {
    for (int round = 0; round < kRounds; ++round) {
      std::vector<std::string> keys;
      for (int i = 0; i < kKeys; ++i) {
        keys.push_back("key/" + std::to_string(round) + "/" + std::to_string(i));
      }
      if (backwards) std::reverse(keys.begin(), keys.end());
      const std::vector<std::string_view> views(keys.begin(), keys.end());
      const auto results = client.GetOrCompute(views, [&](ComputeSlot& slot) {
        return this->Make("value of " + std::string(slot.key()), &calls)(slot);
      });
      for (int i = 0; i < kKeys; ++i) {
        ASSERT_EQ(this->ValueOf(results[i]), "value of " + keys[i]);
      }
    }
  };
  std::thread backwards([&] { work(*other, true); });
  work(*this->client_, false);
  backwards.join();
  EXPECT_EQ(calls.load(), kRounds * kKeys);
  EXPECT_EQ(this->daemon().Stats().stored, uint64_t{kRounds * kKeys});
}

TYPED_TEST(SingleFlight, AKeyTwiceInABatchIsComputedOnce) {
  std::atomic<int> calls{0};
  const std::vector<std::string_view> keys = {"k", "k", "k"};
  const auto results = this->client_->GetOrCompute(keys, this->Make("value", &calls));
  for (const ComputeResult& result : results) EXPECT_EQ(this->ValueOf(result), "value");
  EXPECT_EQ(calls.load(), 1);
  const std::vector<std::string_view> none;
  EXPECT_TRUE(this->client_->GetOrCompute(none, this->Make("value")).empty());
}

TYPED_TEST(SingleFlight, AWaitHasADeadlineAndThenItIsComputed) {
  const GetOrReserveResult held = this->GetOrReserve(*this->client_, "k");
  ASSERT_TRUE(held.claim.has_value()) << held.status;
  EXPECT_EQ(held.claim->key(), "k");
  const auto other = this->Connect();
  const ComputeResult computed =
      other->GetOrCompute("k", this->Make("value"), {.deadline = absl::Milliseconds(50)});
  EXPECT_EQ(this->ValueOf(computed), "value");
  EXPECT_TRUE(computed.computed);
  EXPECT_EQ(this->Get("k"), "value");
  const GetOrReserveResult late = this->GetOrReserve(*this->client_, "k");
  EXPECT_TRUE(late.object.has_value());
}

TYPED_TEST(SingleFlight, AClaimThatTakesTooLongPassesOn) {
  GetOrReserveResult held =
      this->GetOrReserve(*this->client_, "k", {.claim_time = absl::Milliseconds(500)});
  ASSERT_TRUE(held.claim.has_value()) << held.status;
  const auto other = this->Connect();
  std::thread waiting(
      [&] { EXPECT_EQ(this->GetOrCompute(*other, "k", "of the second"), "of the second"); });
  this->AwaitWaiters(1);
  this->daemon().clock().AdvanceMs(500);
  waiting.join();
  // The first is late, which is no error.
  EXPECT_EQ(this->Put("k", "of the first"), PutOutcome::kExists);
}

TYPED_TEST(SingleFlight, ClaimsAreFulfilledByReserveAndCommit) {
  GetOrReserveResult won = this->GetOrReserve(*this->client_, "k");
  ASSERT_TRUE(won.claim.has_value()) << won.status;
  const auto other = this->Connect();
  std::thread waiting([&] { EXPECT_EQ(this->GetOrCompute(*other, "k", "no"), "yyy"); });
  this->AwaitWaiters(1);
  const ReserveItem item = {.key = "k", .size_bytes = 3, .claim = &*won.claim};
  ReserveResult reserved = std::move(this->client_->Reserve(std::span(&item, 1)).front());
  ASSERT_TRUE(reserved.reservation.has_value()) << reserved.status;
  EXPECT_FALSE(*won.claim) << "the reservation has it";
  std::fill(reserved.reservation->bytes().begin(), reserved.reservation->bytes().end(),
            std::byte{'y'});
  EXPECT_EQ(this->client_->Commit(std::span(&*reserved.reservation, 1)).front().outcome,
            PutOutcome::kStored);
  waiting.join();
  this->ExpectNothingIsClaimed();
}

TYPED_TEST(SingleFlight, ADroppedReservationPassesItsClaimOn) {
  GetOrReserveResult won = this->GetOrReserve(*this->client_, "k");
  ASSERT_TRUE(won.claim.has_value()) << won.status;
  const auto other = this->Connect();
  std::thread waiting([&] { EXPECT_EQ(this->GetOrCompute(*other, "k", "second"), "second"); });
  this->AwaitWaiters(1);
  {
    const ReserveItem item = {.key = "k", .size_bytes = 3, .claim = &*won.claim};
    EXPECT_TRUE(this->client_->Reserve(std::span(&item, 1)).front().reservation.has_value());
  }
  waiting.join();
}

TYPED_TEST(SingleFlight, TheEndOfAClientPassesItsClaimsOn) {
  auto first = this->Connect();
  GetOrReserveResult won = this->GetOrReserve(*first, "k");
  ASSERT_TRUE(won.claim.has_value()) << won.status;
  std::thread waiting(
      [&] { EXPECT_EQ(this->GetOrCompute(*this->client_, "k", "second"), "second"); });
  this->AwaitWaiters(1);
  first = nullptr;
  won.claim.reset();  // which may come after its client
  waiting.join();
  this->ExpectNothingIsClaimed();
}

TYPED_TEST(SingleFlight, AnswersEachKeyAsSoonAsItIsKnown) {
  this->Put("there", "value");
  const auto other = this->Connect();
  GetOrReserveResult held = this->GetOrReserve(*other, "waited for");
  ASSERT_TRUE(held.claim.has_value());
  const std::vector<std::string_view> keys = {"waited for", "there", "missing"};
  const RequestId id = this->client_->SubmitGetOrReserve(keys);
  std::vector<GetOrReserveResult> results(3);
  size_t known = 0;
  bool more = true;
  const auto drain = [&] {
    for (Completion& completion : this->client_->Drain()) {
      EXPECT_EQ(completion.id, id);
      more = completion.more;
      for (GetOrReservePiece& piece : completion.get_or_reserve) {
        results.at(piece.index) = std::move(piece.result);
        ++known;
      }
    }
  };
  while (known < 2) drain();
  EXPECT_TRUE(more);
  EXPECT_TRUE(results[1].object.has_value());
  EXPECT_TRUE(results[2].claim.has_value());
  EXPECT_EQ(other->Put({.key = "waited for", .value = {Bytes("now")}}).outcome,
            PutOutcome::kStored);
  while (more) drain();
  ASSERT_TRUE(results[0].object.has_value()) << results[0].status;
  EXPECT_EQ(Text(results[0].object->bytes()), "now");
  results.clear();
  held.claim.reset();
  this->ExpectNothingIsClaimed();
  const RequestId empty = this->client_->SubmitGetOrReserve({});
  std::vector<Completion> completions;
  while (completions.empty()) completions = this->client_->Drain();
  EXPECT_EQ(completions[0].id, empty);
  EXPECT_FALSE(completions[0].more);
}

TYPED_TEST(SingleFlight, ABatchOfFiveThousand) {
  std::vector<std::string> keys;
  for (int i = 0; i < 5000; ++i) keys.push_back("key/" + std::to_string(i));
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::atomic<int> calls{0};
  for (int round = 0; round < 2; ++round) {
    const auto results = this->client_->GetOrCompute(views, this->Make("v", &calls));
    for (const ComputeResult& result : results) ASSERT_EQ(this->ValueOf(result), "v");
    EXPECT_EQ(calls.load(), 5000);
  }
}

TYPED_TEST(LargeFlights, AValueOf40MiB) {
  const std::string large = Pattern(40 << 20, 3);
  const auto other = this->Connect();
  std::thread waiting;
  std::string got;
  const ComputeResult computed = this->client_->GetOrCompute("large", [&](ComputeSlot& slot) {
    waiting = std::thread([&] { got = this->GetOrCompute(*other, "large", "no"); });
    this->AwaitWaiters(1);
    return this->Make(large)(slot);
  });
  EXPECT_TRUE(this->ValueOf(computed) == large);
  waiting.join();
  EXPECT_TRUE(got == large);
}

TYPED_TEST(SingleFlight, WhatDoesNotFitIsComputedAllTheSame) {
  const auto small = this->Connect([](ClientOptions& o) { o.namespace_name = kOtherNamespace; });
  const std::string value = Pattern(9 << 20, 2);  // the namespace has 8 MiB
  const ComputeResult result = small->GetOrCompute("k", this->Make(value));
  EXPECT_TRUE(this->ValueOf(result) == value);
  EXPECT_TRUE(absl::IsResourceExhausted(result.stored)) << result.stored;
  const std::string long_key(2000, 'k');
  const ComputeResult bad = small->GetOrCompute(long_key, this->Make("value"));
  EXPECT_EQ(this->ValueOf(bad), "value");
  EXPECT_TRUE(absl::IsInvalidArgument(bad.stored)) << bad.stored;
}

}  // namespace
}  // namespace infercache
