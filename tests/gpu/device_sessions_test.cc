// The daemon's end of a session with the memory of a GPU.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/cuda/memory.h"
#include "tests/gpu/gpu_local_fixture.h"
#include "tests/local/child.h"

namespace infercache::gpu {
namespace {

using local::MakeItem;
using local::RawClient;
using local::Worker;
using ::testing::HasSubstr;

class DeviceSessions : public GpuLocalFixture {
 protected:
  Worker OpenDevice() {
    RawClient client = Connect();
    const absl::Status status = client.Open(OnDevice());
    EXPECT_TRUE(status.ok()) << status;
    return Worker(std::move(client));
  }
  absl::Status TryDevice() { return TryOpen(OnDevice()); }
};

TEST_F(DeviceSessions, AreOnesWithTheTierAndItsChunks) {
  ServeTier();
  Worker worker = OpenDevice();
  EXPECT_EQ(worker.welcome().device(), device_.uuid);
  EXPECT_EQ(worker.welcome().put_access(), v1::Welcome::PUT_ACCESS_IN_PLACE);
  EXPECT_EQ(worker.welcome().chunk_count(), 2u);
  EXPECT_EQ(worker.welcome().chunk_bytes(), kTierBytes / 2);
  EXPECT_EQ(worker.welcome().page_kind(), "");
  const auto chunks = worker.raw().FetchChunks();
  ASSERT_TRUE(chunks.ok()) << chunks.status();
  for (const UniqueFd& chunk : *chunks) {
    const auto imported = cuda::Allocation::Import(driver_, chunk, worker.welcome().chunk_bytes());
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_TRUE(
        cuda::Mapping::Map(*imported, device_.ordinal, cuda::Mapping::Access::kReadWrite).ok());
  }
}

TEST_F(DeviceSessions, ReserveCommitLookUpAndRemove) {
  ServeTier();
  Worker worker = OpenDevice();
  const v1::ReservedItem place = worker.Reserve("key", 1000);
  ASSERT_EQ(place.code(), 0u) << place.message();
  EXPECT_EQ(worker.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  const auto found = worker.Lookup({"key", "other"});
  EXPECT_EQ(found[0].chunk(), place.chunk());
  EXPECT_EQ(found[0].offset(), place.offset());
  EXPECT_EQ(found[0].object().size_bytes(), 1000u);
  EXPECT_EQ(found[1].lease(), 0u);
  worker.Release({found[0].lease()});
  EXPECT_EQ(worker.ListKeys().objects_size(), 1);
  EXPECT_EQ(worker.Remove({"key"}), "1");
  // A session with host memory is another namespace.
  EXPECT_EQ(Open().Lookup({"key"})[0].lease(), 0u);
}

TEST_F(DeviceSessions, PutNothingThroughTheDaemon) {
  ServeTier();
  Worker worker = OpenDevice();
  v1::LocalRequest put;
  *put.mutable_put_inline()->add_items()->mutable_object() = MakeItem("key", 0);
  const absl::Status status = worker.raw().Ask(put).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(device_.uuid));
  const v1::ReservedItem place = worker.Reserve("key", 4);
  worker.SendWrite(place.reservation(), 0, "data");
  const v1::LocalPutResult result = worker.Commit(place.reservation());
  EXPECT_EQ(result.outcome(), v1::LOCAL_PUT_REFUSED);
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
}

TEST_F(DeviceSessions, AreForWritersOnly) {
  store::NamespaceSpec spec;
  spec.local_writers = {.everyone = false, .users = {getuid() + 1}, .groups = {}};
  ServeTier(spec);
  const absl::Status status = TryDevice();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("local_writers"));
  EXPECT_TRUE(TryOpen({}).ok()) << "may read in host memory";
}

TEST_F(DeviceSessions, AreForNobodyWhereNoClientMayWrite) {
  store::NamespaceSpec spec;
  spec.writable_by_clients = false;
  ServeTier(spec);
  EXPECT_EQ(TryDevice().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(DeviceSessions, WithoutATierAreNotFound) {
  ServeTier();
  local::Opening opening = OnDevice();
  opening.device = "GPU-00000000-0000-0000-0000-000000000000";
  const absl::Status status = TryOpen(opening);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("GPU-00000000"));
}

TEST_F(DeviceSessions, ATierThatIsOffSaysWhy) {
  Create("default", 4 * kMiB);
  DeviceTiers tiers({.library = "libcuda-that-is-not-there.so"});
  (void)tiers.Add(*store_, {.ns = Host(), .device = device_.uuid, .bytes = kTierBytes});
  Serve();
  const absl::Status status = TryDevice();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("libcuda-that-is-not-there.so"));
}

TEST_F(DeviceSessions, ATierThatWasToFindItsGpuAndDidNotIsOffOnAll) {
  Create("default", 4 * kMiB);
  DeviceTiers tiers({.library = "libcuda-that-is-not-there.so"});
  (void)tiers.Add(*store_, {.ns = Host(), .device = "auto", .bytes = kTierBytes});
  Serve();
  EXPECT_EQ(TryDevice().code(), absl::StatusCode::kUnimplemented);
}

// Who opens one must not wait for a GPU that hangs.
TEST_F(DeviceSessions, ASessionAsksTheDriverForNothing) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not count";
  ServeTier();
  const uint64_t exports = fake().calls().exports.load();
  fake().faults().refuse_exports.store(1);
  Worker worker = OpenDevice();
  const auto chunks = worker.raw().FetchChunks();
  EXPECT_TRUE(chunks.ok()) << chunks.status();
  EXPECT_EQ(fake().calls().exports.load(), exports);
}

TEST_F(DeviceSessions, WhatOneReservesIsGivenBackWithIt) {
  ServeTier();
  {
    Worker worker = OpenDevice();
    worker.Reserve("key", 1000);
    EXPECT_EQ(Tier()->Stats().reservations, 1u);
    worker.Abort({1});
    EXPECT_EQ(Tier()->Stats().reservations, 0u);
    worker.Reserve("key", 1000);
  }
  // This process lives, and could write.
  EXPECT_TRUE(local::Eventually([&] { return Tier()->Stats().quarantined_bytes > 0; }));
}

// The daemon closes the connection of a worker that lives, whose child has it too: neither's end
// alone shows that nothing is written any more.
TEST_F(DeviceSessions, WhatOneReservesOutlivesItUntilTheProcessAndItsChildAreGone) {
  local::Child worker([this](local::Pipe& test) {
    if (!test.Await('g')) return false;
    auto client = RawClient::Connect(socket_path());
    if (!client.ok() || !client->Open(OnDevice()).ok()) return false;
    Worker session(*std::move(client));
    if (session.Reserve("key", 1000).reservation() == 0) return false;
    if (fork() == 0) _exit(test.Await('q') ? 0 : 1);
    if (!session.raw().SendFrame("nonsense").ok() || !session.raw().AwaitClose().ok() ||
        !test.Tell('c')) {
      return false;
    }
    for (;;) pause();
  });
  ServeTier();
  ASSERT_TRUE(worker.pipe().Tell('g') && worker.pipe().Await('c'));
  ExpectEnds(local::EndReason::kProtocol);
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  worker.Kill();
  EXPECT_TRUE(local::Eventually([this] {
    return Log().find("1000 bytes reserved in the memory of " + device_.uuid) != std::string::npos;
  })) << Log();
  EXPECT_EQ(server_->stats().quarantined_reservations, 1u);
  EXPECT_TRUE(worker.pipe().Tell('q'));
  EXPECT_TRUE(local::Eventually([this] { return Tier()->Stats().reservations == 0; }));
}

TEST_F(DeviceSessions, AReservationOfOneThatHangsIsTakenBackInTimeAndItsRoomOnceItHasStopped) {
  ServeTier({}, {.reservation_timeout = absl::Milliseconds(1)});
  Worker worker = OpenDevice();
  // Two of these fill the tier, one in each chunk.
  constexpr uint64_t kLarge = kTierBytes / 2;
  const v1::ReservedItem place = worker.Reserve("key", kLarge);
  ASSERT_EQ(place.code(), 0u) << place.message();
  ASSERT_TRUE(local::Eventually([this] { return server_->stats().reservations_expired == 1; }));
  EXPECT_EQ(Tier()->Stats().quarantined_bytes, kLarge);
  // It may still write: others are given what else there is, or nothing.
  Worker other = OpenDevice(), third = OpenDevice();
  const auto exhausted = static_cast<uint32_t>(absl::StatusCode::kResourceExhausted);
  const v1::ReservedItem elsewhere = other.Reserve("key", kLarge);
  ASSERT_EQ(elsewhere.code(), 0u) << elsewhere.message();
  EXPECT_NE(elsewhere.chunk(), place.chunk());
  EXPECT_EQ(third.Reserve("third", kLarge).code(), exhausted);
  EXPECT_EQ(worker.Commit(place.reservation()).code(),
            static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
  const v1::ReservedItem again = third.Reserve("third", kLarge);
  EXPECT_EQ(again.code(), 0u) << again.message();
  EXPECT_EQ(again.chunk(), place.chunk());
  other.Abort({elsewhere.reservation()});
  third.Abort({again.reservation()});
}

TEST_F(DeviceSessions, ATierFullOfWhatIsPinnedRefusesPutsAndNobodyWaits) {
  ServeTier({}, {.pin_budget_divisor = 1});
  Worker reader = OpenDevice(), writer = OpenDevice();
  constexpr uint64_t kObject = kTierBytes / 8;
  std::vector<uint64_t> leases;
  v1::ReservedItem place;
  for (int i = 0;; ++i) {
    const std::string key = "key" + std::to_string(i);
    place = writer.Reserve(key, kObject);
    if (place.code() != 0) break;
    ASSERT_EQ(writer.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
    leases.push_back(reader.Lookup({key})[0].lease());
    ASSERT_NE(leases.back(), 0u);
  }
  EXPECT_EQ(leases.size(), 8u);
  EXPECT_EQ(place.code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(Tier()->Stats().objects, 8u) << "what is held stays";
  // Once one is let go of, it is the one to go.
  reader.Release({leases[3]});
  reader.Ping();  // which is answered after it
  place = writer.Reserve("new", kObject);
  EXPECT_EQ(place.code(), 0u) << place.message();
  EXPECT_FALSE(Tier().Has("key3"));
  writer.Abort({place.reservation()});
}

// Its memory was given back by whoever was the last to have the namespace: here the loop of the
// session, which waited for the GPU with all other sessions on it.
TEST_F(DeviceSessions, HoldNobodyUpWhenTheirTierGoesWhileTheGpuHangs) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  ServeTier({}, {.threads = 1});
  Create("other");
  Worker other = Open({.namespace_name = "other"});
  const uint64_t before = fake().calls().releases.load();
  {
    Worker worker = OpenDevice();
    worker.Ping();
    ASSERT_TRUE(store_->DeleteNamespace("default").ok());
    fake().hangs().releases.store(1);
  }
  ASSERT_TRUE(local::Eventually([&] { return fake().calls().releases.load() > before; }));
  other.Ping();
  EXPECT_TRUE(local::Eventually([this] { return server_->stats().sessions == 1; }));
  fake().EndHangs();
}

}  // namespace
}  // namespace infercache::gpu
