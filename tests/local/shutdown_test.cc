#include <gmock/gmock.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/time/clock.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

class LocalShutdown : public LocalFixture {
 protected:
  LocalShutdown() : ns_(Create("default")) {}

  store::NamespaceVerbs ns_;
};

TEST_F(LocalShutdown, ADrainRefusesNewWorkAndFinishesOld) {
  ns_.MustPut("there", "value");
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 3);
  server_->BeginDrain();
  const auto goodbye = worker.raw().AwaitGoodbye();
  ASSERT_TRUE(goodbye.ok()) << goodbye.status();
  EXPECT_THAT(goodbye->reason(), HasSubstr("drain"));

  EXPECT_EQ(TryOpen({}).code(), absl::StatusCode::kUnavailable);
  v1::LocalRequest reserve, put;
  *reserve.mutable_reserve()->add_items() = MakeItem("new", 3);
  *put.mutable_put_inline()->add_items()->mutable_object() = MakeItem("new", 0);
  EXPECT_EQ(worker.raw().Ask(reserve).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(worker.raw().Ask(put).status().code(), absl::StatusCode::kUnavailable);

  worker.WriteInPlace(place, "new");
  EXPECT_EQ(worker.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.Get("there", clock_.NowMs()), "value");
  EXPECT_NE(worker.Lookup({"there"})[0].lease(), 0u);
}

TEST_F(LocalShutdown, AShutdownWaitsForReservations) {
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 3);
  std::atomic<bool> down = false;
  std::thread shutdown([&] {
    server_->Shutdown(absl::InfiniteFuture());
    down = true;
  });
  EXPECT_TRUE(worker.raw().AwaitGoodbye().ok());
  EXPECT_TRUE(Eventually([&] { return !std::filesystem::exists(socket_path()); }));
  EXPECT_FALSE(down);
  worker.WriteInPlace(place, "new");
  worker.Commit(place.reservation());
  shutdown.join();
  EXPECT_TRUE(worker.raw().AwaitClose().ok());
  EXPECT_EQ(ns_.Get("key"), "new");
  EXPECT_EQ(Ended(EndReason::kShutdown), 1u);
  EXPECT_TRUE(worker.raw().page().revoked());
}

TEST_F(LocalShutdown, AShutdownWaitsNoLongerThanItsDeadline) {
  Serve();
  Worker worker = Open();
  worker.Reserve("key", 3);
  server_->Shutdown(absl::Now() + absl::Milliseconds(50));
  EXPECT_TRUE(worker.raw().AwaitClose().ok());
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
  server_->Shutdown(absl::InfiniteFuture());  // again: nothing left to do
}

TEST_F(LocalShutdown, AServerGoesDownWhileEverybodyWorks) {
  Serve({.threads = 4});
  std::vector<std::thread> threads;
  std::atomic<int> working = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t, &working] {
      RawClient client = Connect();
      if (!client.Open().ok()) return;
      for (int i = 0;; ++i) {
        v1::LocalRequest request;
        *request.mutable_reserve()->add_items() =
            MakeItem(std::to_string(t) + "/" + std::to_string(i), 100);
        const auto reserved = client.Ask(request);
        if (absl::IsUnavailable(reserved.status()) && client.AwaitClose().ok()) return;
        if (i == 3) ++working;
        if (reserved.ok() && i % 2 == 0) {
          v1::LocalRequest commit;
          commit.mutable_commit()->add_reservations(
              reserved->response.reserved().items(0).reservation());
          (void)client.Ask(commit);
        }
      }
    });
  }
  EXPECT_TRUE(Eventually([&] { return working == 8; }));
  server_->Shutdown(absl::InfinitePast());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ns_->Stats().reserved_bytes, 0u);
}

}  // namespace
}  // namespace infercache::local
