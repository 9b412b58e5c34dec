// A client's end of a session with the memory of a GPU. Daemon and client are one process here.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/gpu/device_client_fixture.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr CallOptions kSoon = {.deadline = absl::Milliseconds(50)};

TEST_F(DeviceClient, WhatIsPutIsFoundWithItsParts) {
  buffer_->Write("abcdefgh");
  const std::vector<PartSpec> parts = {
      {.dtype = DataType::kFloat16, .shape = {1, 3}, .size_bytes = 6},
      {.dtype = DataType::kUInt8, .shape = {2}, .size_bytes = 2}};
  const PutResult put = device_client_->Put(
      {.key = "key", .parts = parts, .source = buffer_->address(), .size_bytes = 8}, nullptr);
  ASSERT_EQ(put.outcome, PutOutcome::kStored) << put.status;
  const DeviceGetResult got = device_client_->Get("key");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(Read(*got.object), "abcdefgh");
  EXPECT_EQ(got.object->address() % 256, 0u);
  EXPECT_EQ(got.object->part_address(1), got.object->address() + 6);
  ASSERT_EQ(got.object->parts().size(), 2u);
  EXPECT_THAT(got.object->parts()[0].shape, ElementsAre(1, 3));
  EXPECT_EQ(got.object->uuid(), device_.uuid);
  EXPECT_EQ(Put("key", "other").outcome, PutOutcome::kExists);
}

TEST_F(DeviceClient, PiecesAreGatheredInTheirOrder) {
  buffer_->Write("abcdefgh");
  const DevicePointer at = buffer_->address();
  const std::vector<PartSpec> parts = {{.size_bytes = 3}, {.size_bytes = 0}, {.size_bytes = 2}};
  const PutResult put = device_client_->Put(
      {.key = "key", .parts = parts, .pieces = {{at + 5, 3}, {0, 0}, {at, 2}}}, nullptr);
  ASSERT_EQ(put.outcome, PutOutcome::kStored) << put.status;
  const DeviceGetResult got = device_client_->Get("key");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(Read(*got.object), "fghab");
  std::string some(2, '\0');
  EXPECT_TRUE(got.object->CopyToHost(2, std::as_writable_bytes(std::span(some))).ok());
  EXPECT_EQ(some, "ha");
  EXPECT_EQ(device_client_->stats().device_to_host_copies, 1u);
  EXPECT_EQ(device_client_->stats().device_to_host_bytes, 2u);
}

TEST_F(DeviceClient, APieceThatIsNowhereRefusesThePutAndGivesItsRoomBack) {
  if (!is_fake()) GTEST_SKIP() << "a real driver may take any pointer for one of its own";
  const DevicePutItem item = {.key = "key", .pieces = {{buffer_->address(), 5}, {4096, 5}}};
  EXPECT_EQ(device_client_->Put(item, nullptr).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().reservations == 0; }));
  EXPECT_FALSE(device_client_->Get("key").hit());
}

TEST_F(DeviceClient, ABatchOfPutsStoresWhatItCan) {
  buffer_->Write("abcdefgh");
  const DevicePointer at = buffer_->address();
  MustPut("there", "other");
  buffer_->Write("abcdefgh");
  std::vector<DevicePutItem> items = {{.key = "first", .source = at, .size_bytes = 3},
                                      {.key = "there", .source = at, .size_bytes = 3},
                                      {.key = "", .source = at, .size_bytes = 3},
                                      {.key = "last", .pieces = {{at + 6, 2}, {at, 1}}}};
  if (is_fake()) items.push_back({.key = "nowhere", .pieces = {{at, 1}, {4096, 5}}});
  const std::vector<PutResult> put = device_client_->Put(items, nullptr);
  EXPECT_EQ(put[0].outcome, PutOutcome::kStored) << put[0].status;
  EXPECT_EQ(put[1].outcome, PutOutcome::kExists) << put[1].status;
  EXPECT_EQ(put[2].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(put[3].outcome, PutOutcome::kStored) << put[3].status;
  if (is_fake()) {
    EXPECT_EQ(put[4].status.code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Read(*device_client_->Get("first").object), "abc");
  EXPECT_EQ(Read(*device_client_->Get("there").object), "other");
  EXPECT_EQ(Read(*device_client_->Get("last").object), "gha");
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().reservations == 0; }));
  EXPECT_EQ(Tier()->Stats().objects, 3u);
  EXPECT_TRUE(device_client_->Put(std::span<const DevicePutItem>(), nullptr).empty());
}

TEST_F(DeviceClient, AnObjectHasAtLeastOneByte) {
  EXPECT_EQ(device_client_->Put({.key = "key"}, nullptr).status.code(),
            absl::StatusCode::kInvalidArgument);
  // Other clients may think otherwise.
  auto lease = Tier().TryReserve("empty", 0);
  ASSERT_TRUE(lease.ok() && lease->has_value());
  ASSERT_TRUE(Tier()->Commit(**std::move(lease)).ok());
  EXPECT_TRUE(device_client_->GetInto("empty", 0, 0, nullptr).hit);
  EXPECT_TRUE(device_client_->GetIntoHost("empty", {}).hit);
}

TEST_F(DeviceClient, WhatIsNotThereIsAMiss) {
  const DeviceGetResult got = device_client_->Get("key");
  EXPECT_FALSE(got.hit());
  EXPECT_TRUE(got.status.ok()) << got.status;
}

TEST_F(DeviceClient, KeysAreThoseOfTheDevice) {
  MustPut("a", "1");
  const std::vector<std::string_view> keys = {"a", "b"};
  EXPECT_THAT(device_client_->Exists(keys).flags, ElementsAre(true, false));
  EXPECT_EQ(device_client_->Match(keys).prefix_length, 1u);
  EXPECT_THAT(device_client_->Delete(keys).flags, ElementsAre(true, false));
  EXPECT_THAT(device_client_->Exists(keys).flags, ElementsAre(false, false));
}

TEST_F(DeviceClient, HitsMapNothingAfterTheFirst) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not count";
  MustPut("key", "value");
  const uint64_t imports = fake().calls().imports.load(), maps = fake().calls().maps.load();
  EXPECT_EQ(device_client_->stats().chunks_mapped, 2u);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(device_client_->Get("key").hit());
    ASSERT_EQ(Put("key" + std::to_string(i), "x").outcome, PutOutcome::kStored);
  }
  EXPECT_EQ(fake().calls().imports.load(), imports);
  EXPECT_EQ(fake().calls().maps.load(), maps);
  EXPECT_EQ(device_client_->stats().chunks_mapped, 2u);
}

TEST_F(DeviceClient, AReservationIsWrittenInPlaceAndSeenOnceCommitted) {
  const ReserveItem item = {.key = "key", .size_bytes = 5};
  auto reserved = device_client_->Reserve({&item, 1});
  ASSERT_TRUE(reserved[0].reservation.has_value()) << reserved[0].status;
  buffer_->WriteTo(reserved[0].reservation->address(), "value");
  EXPECT_FALSE(device_client_->Get("key").hit());
  const auto committed = device_client_->Commit({&*reserved[0].reservation, 1}, nullptr);
  ASSERT_EQ(committed[0].outcome, PutOutcome::kStored) << committed[0].status;
  EXPECT_EQ(Read(*device_client_->Get("key").object), "value");
}

// Its room was given back, and to others, while the GPU wrote there.
TEST_F(DeviceClient, AReservationIsCommittedByItsOwnDeviceAlone) {
  const std::unique_ptr<Device> other = OpenDevice();
  const ReserveItem items[] = {{.key = "mine", .size_bytes = 5}, {.key = "own", .size_bytes = 5}};
  auto mine = device_client_->Reserve({&items[0], 1});
  auto own = other->Reserve({&items[1], 1});
  std::vector<DeviceReservation> rooms;
  rooms.push_back(*std::move(own[0].reservation));
  rooms.push_back(*std::move(mine[0].reservation));
  for (const PutResult& one : other->Commit(rooms, nullptr)) {
    EXPECT_EQ(one.status.code(), absl::StatusCode::kInvalidArgument) << one.status;
  }
  EXPECT_TRUE(rooms[0] && rooms[1]) << "still the caller's";
  EXPECT_EQ(Tier()->Stats().reservations, 2u);
  EXPECT_EQ(other->Commit({&rooms[0], 1}, nullptr)[0].outcome, PutOutcome::kStored);
  EXPECT_EQ(device_client_->Commit({&rooms[1], 1}, nullptr)[0].outcome, PutOutcome::kStored);
}

TEST_F(DeviceClient, ADroppedReservationIsRoomAgain) {
  const ReserveItem item = {.key = "key", .size_bytes = 5};
  { auto reserved = device_client_->Reserve({&item, 1}); }
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().reservations == 0; }));
}

TEST_F(DeviceClient, ACommitWaitsForItsStreamWithinItsDeadline) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const ReserveItem item = {.key = "key", .size_bytes = 5};
  auto reserved = device_client_->Reserve({&item, 1});
  DeviceReservation& room = *reserved[0].reservation;
  buffer_->Write("value");
  fake().StickStreams();
  buffer_->CopyTo(room.address(), 5);
  EXPECT_EQ(device_client_->Commit({&room, 1}, nullptr, kSoon)[0].status.code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(room) << "still the caller's";
  EXPECT_FALSE(device_client_->Get("key").hit());
  fake().FreeStreams();
  EXPECT_EQ(device_client_->Commit({&room, 1}, nullptr)[0].outcome, PutOutcome::kStored);
  EXPECT_EQ(Read(*device_client_->Get("key").object), "value");
}

TEST_F(DeviceClient, APutThatIsTooSlowKeepsItsRoomUntilTheGpuIsDoneWithIt) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("first", "maps the memory");
  buffer_->Write("value");
  fake().StickStreams();
  const PutResult put = device_client_->Put(
      {.key = "key", .source = buffer_->address(), .size_bytes = 5}, nullptr, kSoon);
  EXPECT_EQ(put.status.code(), absl::StatusCode::kDeadlineExceeded);
  device_client_->Exists(std::vector<std::string_view>{"key"});
  EXPECT_EQ(Tier()->Stats().reservations, 1u);
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().reservations == 0; }));
  EXPECT_FALSE(device_client_->Get("key").hit());
}

// What a worker did in place to a tensor over the cache was what everybody read from then on.
TEST_F(DeviceClient, WhoWritesToAViewLosesItsContextAndChangesNothing) {
  if (!is_fake()) GTEST_SKIP() << "no other test would have a context after it";
  MustPut("key", "value");
  DeviceGetResult view = device_client_->Get("key");
  {
    const auto context = OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal));
    const cuda::CurrentContext current(*context);
    ASSERT_EQ(driver_->api().memcpy_dtod_async(view.object->address(), buffer_->address() + 64, 5,
                                               nullptr),
              cuda::kSuccess);
    EXPECT_EQ(driver_->api().stream_synchronize(nullptr), cuda::kIllegalAddress);
  }
  // Another process, as it were.
  view.object.reset();
  device_client_.reset();
  buffer_.reset();
  ASSERT_TRUE(Eventually([] { return fake().UseOf(0).contexts == 0; }));
  buffer_.emplace(driver_, device_.ordinal);
  device_client_ = OpenDevice();
  view = device_client_->Get("key");
  ASSERT_TRUE(view.hit()) << view.status;
  EXPECT_EQ(Read(*view.object), "value");
}

TEST_F(DeviceClient, MemoryThatCannotBeImportedSaysSoAndHostMemoryIsLeft) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  MustPut("gpu only", "value");
  store::NamespaceVerbs(Host()).MustPut("key", "in host memory");
  device_client_ = OpenDevice();
  fake().faults().refuse_imports.store(1);
  const DeviceGetResult got = device_client_->Get("key");
  EXPECT_FALSE(got.hit());
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("cuMemImportFromShareableHandle"));
  EXPECT_TRUE(device_client_->GetInto("key", buffer_->address(), 100, nullptr).from_host);
  std::string value(14, '\0');
  EXPECT_TRUE(device_client_->GetIntoHost("key", std::as_writable_bytes(std::span(value))).hit);
  EXPECT_EQ(value, "in host memory");
  const absl::Status why = device_client_->GetIntoHost("gpu only", {}).status;
  EXPECT_THAT(std::string(why.message()), HasSubstr("cuMemImportFromShareableHandle"));
  EXPECT_GE(device_client_->stats().mapping_failures, 2u);
  fake().faults().refuse_imports.store(0);
  EXPECT_TRUE(device_client_->Get("key").hit());
}

TEST_F(DeviceClient, UnmapsWhenTheDaemonGoesAndFindsTheNextOne) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  MustPut("key", "value");
  EXPECT_EQ(fake().UseOf(0).mappings, buffers_ + 4) << "each chunk twice";
  server_->Shutdown(absl::InfinitePast());
  server_.reset();
  // Without a call of anybody's.
  EXPECT_TRUE(Eventually([&] { return fake().UseOf(0).mappings == buffers_; }));
  EXPECT_FALSE(device_client_->Get("key", kSoon).hit());
  Serve();
  EXPECT_TRUE(Eventually([&] { return device_client_->Get("key").hit(); }));
  EXPECT_EQ(device_client_->stats().chunks_mapped, 4u);
}

TEST_F(DeviceClient, AViewKeepsItsMappingWhenTheDaemonGoes) {
  MustPut("key", "value");
  const DeviceGetResult got = device_client_->Get("key");
  server_->Shutdown(absl::InfinitePast());
  EXPECT_FALSE(device_client_->Get("key", kSoon).hit());
  EXPECT_EQ(Read(*got.object), "value");
  // And of the tier's two chunks only the one in which it is.
  if (!is_fake()) return;
  EXPECT_TRUE(Eventually([&] { return fake().UseOf(0).mappings == buffers_ + 2; }));
  EXPECT_EQ(Read(*got.object), "value");
}

TEST_F(DeviceClient, WithoutATierEveryCallSaysSo) {
  Host()->SetDeviceTier({.device = device_.uuid,
                         .bytes = kTierBytes,
                         .objects = nullptr,
                         .why_off = absl::InternalError("it broke")});
  device_client_ = OpenDevice();
  const DeviceGetResult got = device_client_->Get("key");
  EXPECT_EQ(got.status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("it broke"));
  EXPECT_EQ(Put("key", "value").status.code(), absl::StatusCode::kUnimplemented);
  AddTier();
}

TEST_F(DeviceClient, HoldsNoMoreThanItsBudget) {
  const uint64_t size = uint64_t{1} << 20;  // of 8 MiB, a quarter of which may be held
  std::vector<DeviceGetResult> held;
  for (int i = 0; i < 3; ++i) {
    const std::string key = "key" + std::to_string(i);
    ASSERT_EQ(
        device_client_->Put({.key = key, .source = buffer_->address(), .size_bytes = size}, nullptr)
            .outcome,
        PutOutcome::kStored);
    held.push_back(device_client_->Get(key));
  }
  EXPECT_TRUE(held[1].hit());
  EXPECT_FALSE(held[2].hit());
  EXPECT_EQ(held[2].status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(DeviceClient, IsNothingInAForkedChild) {
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  const pid_t child = fork();
  if (child == 0) {
    const bool says = device_client_->Get("key").status.code() == absl::StatusCode::kUnavailable &&
                      got.object->ReleaseAfter(nullptr).code() == absl::StatusCode::kUnavailable;
    got.object.reset();
    device_client_.reset();
    _exit(says ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(Read(*got.object), "value");
}

}  // namespace
}  // namespace infercache::gpu
