// What the server does by itself: deadlines, budgets, touches, deleted namespaces.

#include <gmock/gmock.h>

#include <future>

#include "common/heartbeat.h"
#include "common/limits.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

class LocalUpkeep : public LocalFixture {
 protected:
  LocalUpkeep() : ns_(Create("default")) {}

  // A reservation whose time is up.
  v1::ReservedItem ReserveAndExpire(Worker& worker, uint64_t size_bytes) {
    const uint64_t before = server_->stats().reservations_expired;
    const v1::ReservedItem place = worker.Reserve("key", size_bytes);
    EXPECT_TRUE(Eventually([&] { return server_->stats().reservations_expired == before + 1; }));
    return place;
  }

  store::NamespaceVerbs ns_;
};

TEST_F(LocalUpkeep, AReservationThatTakesTooLongIsQuarantinedUntilItsClientCommits) {
  Serve({.reservation_timeout = absl::Milliseconds(1)});
  Worker worker = Open();
  const v1::ReservedItem place = ReserveAndExpire(worker, 50'000);
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  EXPECT_EQ(server_->stats().quarantined.total(), 50'000u);
  EXPECT_EQ(server_->QuarantinedIn("default").total(), 50'000u);
  EXPECT_EQ(server_->QuarantinedIn("other").total(), 0u);
  EXPECT_GE(ns_->Stats().quarantined_bytes, 50'000u);

  const v1::LocalPutResult result = worker.Commit(place.reservation());
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(server_->stats().quarantined_reservations, 0u);
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
  EXPECT_EQ(worker.Commit(place.reservation()).code(),
            static_cast<uint32_t>(absl::StatusCode::kNotFound));
}

TEST_F(LocalUpkeep, AnAbortFreesAnExpiredReservation) {
  Serve({.reservation_timeout = absl::Milliseconds(1)});
  Worker worker = Open();
  const v1::ReservedItem place = ReserveAndExpire(worker, 50'000);
  worker.Abort({place.reservation()});
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

TEST_F(LocalUpkeep, AReservationInTimeIsLeftAlone) {
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 3);
  const uint64_t touches = server_->stats().touches_drained;
  // Two rounds of upkeep have passed once two touches were drained one after the other.
  for (uint64_t n = 1; n <= 2; ++n) {
    shm::SessionPage page = worker.raw().page();
    page.lane(0).touched.store(n);
    ASSERT_TRUE(Eventually([&] { return server_->stats().touches_drained == touches + n; }));
  }
  EXPECT_EQ(server_->stats().reservations_expired, 0u);
  EXPECT_EQ(worker.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
}

TEST_F(LocalUpkeep, TouchesKeepWhatClientsUse) {
  ns_.MustPut("used", std::string(kMaxInlineBytes, 'u'));
  ns_.MustPut("unused", std::string(kMaxInlineBytes, 'n'));
  Serve();
  Worker worker = Open();
  worker.Get("used", clock_.NowMs(), 0, /*keep_pin=*/true);
  shm::SessionPage page = worker.raw().page();
  const uint64_t pin = page.slot(0).load();
  page.slot(0).store(0);
  page.touch(3, 0).store(shm::MakeTouch(pin, true));
  page.lane(3).touched.store(1);
  v1::LocalRequest drain;
  drain.mutable_drain();
  ASSERT_TRUE(worker.raw().Send(drain).ok());
  EXPECT_TRUE(Eventually([&] { return server_->stats().touches_drained == 1; }));
  EXPECT_EQ(FirstToGo(std::move(worker), ns_, {"used", "unused"}), "unused");
}

TEST_F(LocalUpkeep, APageOverItsBudgetIsRevoked) {
  for (const char* key : {"a", "b", "c", "d"}) ns_.MustPut(key, std::string(200 * 1024, 'x'));
  Serve();  // the budget is 256 KiB, and 512 KiB beside the largest object end the session
  Worker worker = Open(), bystander = Open();
  worker.Get("a", clock_.NowMs(), 0, /*keep_pin=*/true);
  worker.Get("b", clock_.NowMs(), 1, /*keep_pin=*/true);
  worker.Get("c", clock_.NowMs(), 2, /*keep_pin=*/true);
  worker.Get("d", clock_.NowMs(), 3, /*keep_pin=*/true);
  EXPECT_TRUE(worker.raw().AwaitClose().ok());
  EXPECT_TRUE(worker.raw().page().revoked());
  EXPECT_TRUE(Eventually([&] { return Ended(EndReason::kRevoked) == 1; }));
  EXPECT_THAT(Log(), HasSubstr("its budget is 262144"));
  // The slots still name them, and count no more.
  EXPECT_EQ(ns_->Flush(""), 4u);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
  bystander.Ping();
}

// Only two readings in a row counted: a client that let go at every other one held what it liked.
TEST_F(LocalUpkeep, LettingGoNowAndThenDoesNotHideWhatIsHeld) {
  constexpr uint32_t kPins = 4;
  const char* const keys[kPins] = {"a", "b", "c", "d"};
  for (const char* key : keys) ns_.MustPut(key, std::string(200 * 1024, 'x'));
  Serve();
  Worker worker = Open();
  shm::SessionPage page = worker.raw().page();
  std::vector<uint64_t> pins;
  for (uint32_t i = 0; i < kPins; ++i) {
    worker.Get(keys[i], clock_.NowMs(), i, /*keep_pin=*/true);
    pins.push_back(page.slot(i).load());
    page.slot(i).store(0);
  }
  // A reading follows each time that the touches are taken in.
  for (uint64_t n = 1; n <= 100 && !page.revoked(); ++n) {
    for (uint32_t i = 0; i < kPins; ++i) page.slot(i).store(n % 2 == 0 ? pins[i] : 0);
    page.lane(0).touched.store(n);
    ASSERT_TRUE(
        Eventually([&] { return page.revoked() || server_->stats().touches_drained == n; }));
  }
  EXPECT_TRUE(page.revoked());
  ExpectEnds(EndReason::kRevoked);
}

TEST_F(LocalUpkeep, LeasesAndPinsCountTogether) {
  for (const char* key : {"a", "b", "c", "d"}) ns_.MustPut(key, std::string(200 * 1024, 'x'));
  Serve();
  Worker worker = Open();
  worker.Lookup({"a"});
  worker.Get("b", clock_.NowMs(), 0, /*keep_pin=*/true);
  worker.Get("c", clock_.NowMs(), 1, /*keep_pin=*/true);
  worker.Get("d", clock_.NowMs(), 2, /*keep_pin=*/true);
  EXPECT_TRUE(worker.raw().AwaitClose().ok());
  ExpectEnds(EndReason::kRevoked);
  EXPECT_EQ(ns_->Stats().pins, 0u);
}

// A client that copies an object larger than its budget pins it beside the views that it holds
// within its budget: it was thrown out for that, and its views showed other bytes.
TEST_F(LocalUpkeep, ASingleObjectMayBeLargerThanTheBudget) {
  ns_.MustPut("small", std::string(200 * 1024, 's'));
  ns_.MustPut("large", std::string(600 * 1024, 'x'));
  Serve();
  Worker worker = Open();
  worker.Get("small", clock_.NowMs(), 0, /*keep_pin=*/true);
  worker.Get("large", clock_.NowMs(), 1, /*keep_pin=*/true);
  for (uint64_t n = 1; n <= 4; ++n) {
    shm::SessionPage page = worker.raw().page();
    page.lane(0).touched.store(n);
    ASSERT_TRUE(Eventually([&] { return server_->stats().touches_drained == n; }));
  }
  worker.Ping();
  EXPECT_FALSE(worker.raw().page().revoked());
}

TEST_F(LocalUpkeep, ADeletedNamespaceSaysGoodbyeOnceAndKeepsWhatIsHeld) {
  ns_.MustPut("key", "value");
  Serve();
  {
    Worker worker = Open();
    const auto found = worker.Lookup({"key"});
    const v1::ReservedItem place = worker.Reserve("new", 3);
    ns_.Release();
    ASSERT_TRUE(store_->DeleteNamespace("default").ok());
    const auto goodbye = worker.raw().AwaitGoodbye();
    ASSERT_TRUE(goodbye.ok()) << goodbye.status();
    EXPECT_THAT(goodbye->reason(), HasSubstr("deleted"));
    EXPECT_EQ(worker.BytesOf(found[0]), "value");
    EXPECT_EQ(worker.Reserve("more", 3).code(),
              static_cast<uint32_t>(absl::StatusCode::kUnavailable));
    EXPECT_EQ(worker.Commit(place.reservation()).code(),
              static_cast<uint32_t>(absl::StatusCode::kUnavailable));
    server_->BeginDrain();
    worker.Ping();
    EXPECT_TRUE(worker.raw().goodbyes().empty()) << "one is enough";
    EXPECT_GT(store_->committed_bytes(), 0u);
  }
  ExpectEnds(EndReason::kClosed);
  EXPECT_TRUE(Eventually([&] { return store_->committed_bytes() == 0; }));
}

// A copy out of the arena is right only while its pin counts. A session that its own client had
// closed left `revoked` at 0 although its pins stopped counting.
TEST_F(LocalUpkeep, ThePageOfAClosedConnectionIsRevoked) {
  ns_.MustPut("key", "value");
  Serve();
  Worker worker = Open();
  ASSERT_EQ(worker.Get("key", clock_.NowMs(), 0, /*keep_pin=*/true), "value");
  EXPECT_FALSE(worker.raw().page().revoked());
  worker.raw().Close();
  ExpectEnds(EndReason::kClosed);
  EXPECT_EQ(ns_->Stats().client_pins, 0u);
  EXPECT_TRUE(worker.raw().page().revoked());
}

// A hung thread went unnoticed by every probe.
TEST_F(LocalUpkeep, AThreadThatHangsShowsNoSignOfLife) {
  Heartbeats heartbeats;
  std::promise<void> hangs, go_on;
  const auto names = [&] { return heartbeats.Silent(std::chrono::seconds(1)); };
  LocalOptions options{.threads = 2};
  options.heartbeats = &heartbeats;
  options.adopt_http2 = [&](UniqueFd) {
    hangs.set_value();
    go_on.get_future().wait();
  };
  Serve(std::move(options));
  EXPECT_THAT(names(), ::testing::IsEmpty());
  RawClient client = Connect();
  ASSERT_TRUE(client.SendBytes("PRI ").ok());
  hangs.get_future().wait();
  EXPECT_TRUE(Eventually([&] { return !names().empty(); }));
  EXPECT_EQ(names().size(), 1u) << "the other one is well";
  go_on.set_value();
  EXPECT_TRUE(Eventually([&] { return names().empty(); }));
  server_->Shutdown(absl::InfinitePast());
  const auto later = Heartbeat::Clock::now() + std::chrono::hours(1);
  EXPECT_THAT(heartbeats.Silent(std::chrono::seconds(1), later), ::testing::IsEmpty());
}

}  // namespace
}  // namespace infercache::local
