// What keeps an object of a GPU, and until when. Daemon and client are one process here.

#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "client/src/device_thread.h"
#include "client/src/host_staging.h"
#include "tests/gpu/device_client_fixture.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using namespace std::chrono_literals;

TEST_F(DeviceClient, AViewOutlivesItsDevice) {
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  device_client_.reset();
  EraseHeld("key");
  store_->Maintain();
  EXPECT_EQ(Read(*got.object), "value");
  EXPECT_GT(Limbo(), 0u);
  EXPECT_TRUE(got.object->ReleaseAfter(nullptr).ok());
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
}

TEST_F(DeviceClient, APinGoesWhenItsStreamIsDone) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  fake().StickStreams();
  ASSERT_TRUE(got.object->ReleaseAfter(nullptr).ok());
  EXPECT_EQ(got.object->address(), 0u);
  EXPECT_EQ(device_client_->stats().held_for_streams, 1u);
  EraseHeld("key");
  store_->Maintain();
  EXPECT_GT(Limbo(), 0u) << "the GPU may still read it";
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
  EXPECT_EQ(device_client_->stats().held_for_streams, 0u);
}

// What a stream is done with, but what takes long to destroy.
struct KeptWhileShut final : DeviceThread::Kept {
  explicit KeptWhileShut(std::latch* d) : door(d) {}
  ~KeptWhileShut() override { door->wait(); }
  std::latch* const door;
};

TEST_F(DeviceClient, WhatStreamsAreDoneWithIsWaitedForUntilItIsDestroyed) {
  const std::shared_ptr<DeviceThread> thread =
      OrDie(DeviceThread::Start(OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal))));
  const auto in = [](std::chrono::milliseconds time) { return DeviceThread::Clock::now() + time; };
  EXPECT_TRUE(thread->AwaitDone(in(0ms))) << "there is nothing";
  std::latch door(1);
  std::unique_ptr<DeviceThread::Kept> kept = std::make_unique<KeptWhileShut>(&door);
  ASSERT_TRUE(thread->KeepUntilDone(nullptr, &kept).ok());
  EXPECT_TRUE(Eventually([&] { return !thread->AwaitDone(in(5ms)); }));
  if (is_fake()) fake().StickStreams();
  ASSERT_TRUE(
      thread->KeepUntilDone(nullptr, &(kept = std::make_unique<KeptWhileShut>(&door))).ok());
  door.count_down();
  EXPECT_TRUE(thread->AwaitDone(in(30s))) << "the second is not waited for";
  if (is_fake()) {
    EXPECT_EQ(thread->waiting(), 1u);
    fake().FreeStreams();
  }
  EXPECT_TRUE(Eventually([&] { return thread->waiting() == 0; }));
}

// What takes the driver long to unmap.
struct StuckInTheDriver final : DeviceThread::Kept {
  struct Doors {
    std::latch entered{1}, open{1};
  };
  explicit StuckInTheDriver(std::shared_ptr<Doors> d) : doors(std::move(d)) {}
  ~StuckInTheDriver() override {
    doors->entered.count_down();
    doors->open.wait();
  }
  const std::shared_ptr<Doors> doors;
};
struct NothingMuch final : DeviceThread::Kept {};

// A GPU that hung while memory was unmapped kept every pin of its other streams.
TEST_F(DeviceClient, UnmappingHoldsUpNoPin) {
  std::shared_ptr<DeviceThread> thread =
      OrDie(DeviceThread::Start(OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal))));
  const auto doors = std::make_shared<StuckInTheDriver::Doors>();
  thread->Destroy(std::make_unique<StuckInTheDriver>(doors));
  doors->entered.wait();
  std::unique_ptr<DeviceThread::Kept> kept = std::make_unique<NothingMuch>();
  ASSERT_TRUE(thread->KeepUntilDone(nullptr, &kept).ok());
  EXPECT_TRUE(Eventually([&] { return thread->waiting() == 0; }));
  thread.reset();  // nor does its end wait
  doors->open.count_down();
}

// Two of 1 MiB may be held of the tier's 8 MiB. It was refused while the device's thread had not
// heard yet that the copies before it were done.
TEST_F(DeviceClient, GetIntoHasRoomWhereCopiesAreDone) {
  constexpr uint64_t kSize = uint64_t{1} << 20;
  const DevicePutItem item = {.key = "key", .source = buffer_->address(), .size_bytes = kSize};
  ASSERT_EQ(device_client_->Put(item, nullptr).outcome, PutOutcome::kStored);
  const auto get_into = [&] {
    return device_client_->GetInto("key", buffer_->address(), kSize, nullptr,
                                   {.deadline = absl::InfiniteDuration()});
  };
  for (int i = 0; i < 300; ++i) {
    const DeviceGetIntoResult got = get_into();
    ASSERT_TRUE(got.hit) << got.status << ", copy " << i;
    buffer_->Wait();
  }
  if (!is_fake()) return;
  // Nor does it wait for streams, nor for who holds views.
  fake().StickStreams();
  EXPECT_TRUE(get_into().hit);
  EXPECT_TRUE(get_into().hit);
  EXPECT_TRUE(absl::IsResourceExhausted(get_into().status));
  fake().FreeStreams();
  std::vector<DeviceGetResult> views;
  EXPECT_TRUE(Eventually([&] {
    DeviceGetResult view = device_client_->Get("key");
    if (view.hit()) views.push_back(std::move(view));
    return views.size() == 2;
  }));
  EXPECT_TRUE(absl::IsResourceExhausted(get_into().status));
}

// Of a driver that was out of memory for a moment, pins and buffers were gone for good.
TEST_F(DeviceClient, AStreamThatCannotBeMarkedKeepsNothingForLongerThanItsWork) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  store::NamespaceVerbs(Host()).MustPut("in host", "other");
  fake().faults().refuse_records.store(1);
  // The stream is done.
  EXPECT_TRUE(device_client_->GetInto("key", buffer_->address(), 5, nullptr).hit);
  for (size_t i = 0; i <= HostStaging::kMaxBuffers; ++i) {
    const DeviceGetIntoResult got =
        device_client_->GetInto("in host", buffer_->address(), 5, nullptr);
    EXPECT_TRUE(got.hit) << got.status << ", copy " << i;
  }
  // It is not, and can be marked after a while.
  fake().StickStreams();
  std::thread late(
      [this] { EXPECT_TRUE(device_client_->GetInto("key", buffer_->address(), 5, nullptr).hit); });
  fake().faults().refuse_records.store(0);
  late.join();
  EXPECT_EQ(device_client_->stats().held_for_streams, 1u);
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
  EraseHeld("key");
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
}

TEST_F(DeviceClient, ACopyThatIsLeftWhenItsStreamCannotBeMarkedGivesItsBufferBack) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  std::string to(5, '.');
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(to));
  fake().StickStreams();
  fake().faults().refuse_records.store(1);
  for (size_t i = 0; i < HostStaging::kMaxBuffers; ++i) {
    EXPECT_TRUE(absl::IsResourceExhausted(device_client_->GetIntoHost("key", bytes).status));
  }
  EXPECT_EQ(device_client_->stats().held_for_streams, HostStaging::kMaxBuffers);
  fake().FreeStreams();
  fake().faults().refuse_records.store(0);
  const GetIntoResult got = device_client_->GetIntoHost("key", bytes);
  EXPECT_TRUE(got.hit) << got.status;
  EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
  EraseHeld("key");
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
}

// The callback became part of the graph, and was called again at every launch, with what was freed.
TEST_F(DeviceClient, NothingIsGivenToAStreamThatIsCaptured) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  EXPECT_TRUE(got.object->CheckNotCapturing(nullptr).ok());
  // The default stream itself, and one that it would wait for.
  for (const uint32_t which : {1, 2}) {
    fake().faults().streams_capture.store(which);
    EXPECT_TRUE(absl::IsFailedPrecondition(got.object->CheckNotCapturing(nullptr)));
    EXPECT_TRUE(absl::IsFailedPrecondition(got.object->ReleaseAfter(nullptr)));
    EXPECT_NE(got.object->address(), 0u) << "nothing has changed";
    EXPECT_TRUE(absl::IsFailedPrecondition(
        device_client_->GetInto("key", buffer_->address(), 5, nullptr).status));
    const DevicePutItem item = {.key = "other", .source = buffer_->address(), .size_bytes = 5};
    EXPECT_TRUE(absl::IsFailedPrecondition(device_client_->Put(item, nullptr).status));
  }
  fake().faults().streams_capture.store(0);
  EXPECT_TRUE(got.object->ReleaseAfter(nullptr).ok());
  EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
}

TEST_F(DeviceClient, ACommitWaitsForEachOfItsStreams) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const ReserveItem item = {.key = "key", .size_bytes = 5};
  auto reserved = device_client_->Reserve({&item, 1});
  DeviceReservation& room = *reserved[0].reservation;
  const DeviceStream streams[] = {nullptr, reinterpret_cast<DeviceStream>(uintptr_t{4096})};
  EXPECT_EQ(device_client_->Commit({&room, 1}, streams)[0].status.code(),
            absl::StatusCode::kInvalidArgument)
      << "the second is none";
  EXPECT_TRUE(room) << "still the caller's";
  EXPECT_EQ(device_client_->Commit({&room, 1}, std::span(streams, 1))[0].outcome,
            PutOutcome::kStored);
}

TEST_F(DeviceClient, AnAbandonedReservationIsRoomAgainWhenItsStreamsAreDone) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const ReserveItem item = {.key = "key", .size_bytes = 5};
  auto reserved = device_client_->Reserve({&item, 1});
  DeviceReservation& room = *reserved[0].reservation;
  fake().StickStreams();
  std::vector<DeviceStream> streams = {nullptr, nullptr};
  ASSERT_TRUE(room.AbandonAfterAll(&streams).ok());
  EXPECT_TRUE(streams.empty());
  EXPECT_FALSE(room);
  EXPECT_EQ(device_client_->stats().held_for_streams, 2u);
  EXPECT_TRUE(absl::IsInvalidArgument(
      device_client_->Commit({&room, 1}, std::span<const DeviceStream>())[0].status));
  EXPECT_EQ(Tier()->Stats().reservations, 1u) << "the GPU may still write there";
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().reservations == 0; }));
  EXPECT_TRUE(room.AbandonAfter(nullptr).ok()) << "there is nothing to do";
}

TEST_F(DeviceClient, AReservationIsNotGivenToAStreamThatIsCaptured) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const ReserveItem item = {.key = "key", .size_bytes = 5};
  auto reserved = device_client_->Reserve({&item, 1});
  DeviceReservation& room = *reserved[0].reservation;
  fake().faults().streams_capture.store(1);
  EXPECT_TRUE(absl::IsFailedPrecondition(room.CheckNotCapturing(nullptr)));
  EXPECT_TRUE(absl::IsFailedPrecondition(room.AbandonAfter(nullptr)));
  EXPECT_TRUE(absl::IsFailedPrecondition(device_client_->Commit({&room, 1}, nullptr)[0].status));
  EXPECT_TRUE(room) << "still the caller's";
  fake().faults().streams_capture.store(0);
  EXPECT_TRUE(room.CheckNotCapturing(nullptr).ok());
  EXPECT_EQ(device_client_->Commit({&room, 1}, nullptr)[0].outcome, PutOutcome::kStored);
}

// vLLM captures graphs in the global mode, in which a query of another thread's made them fail.
TEST_F(DeviceClient, BreaksNoCaptureOfAnotherThread) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().global_capture.store(1);
  const auto left_alone = [] { return fake().calls().captures_left_alone.load(); };
  const std::unique_ptr<Device> first = OpenDevice();
  MustPut("key", "value");
  DeviceGetResult got = first->Get("key");
  ASSERT_TRUE(got.hit()) << got.status;
  std::string copy(5, '\0');
  EXPECT_TRUE(first->GetIntoHost("key", std::as_writable_bytes(std::span(copy))).hit);
  fake().StickStreams();
  ASSERT_TRUE(got.object->ReleaseAfter(nullptr).ok());
  const uint64_t before = left_alone();
  EXPECT_TRUE(Eventually([&] { return left_alone() > before; })) << "its thread looks at a stream";
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return first->stats().held_for_streams == 0; }));
  EXPECT_EQ(fake().calls().captures_broken.load(), 0u);
}

TEST_F(DeviceClient, APinGoesWhenItsContextDies) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  DeviceGetResult held = device_client_->Get("key"), late = device_client_->Get("key");
  fake().StickStreams();
  ASSERT_TRUE(held.object->ReleaseAfter(nullptr).ok());
  fake().faults().contexts_dead.store(1);
  EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
  EXPECT_TRUE(late.object->ReleaseAfter(nullptr).ok());
  EraseHeld("key");
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
}

TEST_F(DeviceClient, AStreamThatIsNoneReleasesNothing) {
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  if (!is_fake()) GTEST_SKIP() << "a real driver need not check its handles";
  int none = 0;
  EXPECT_EQ(got.object->ReleaseAfter(&none).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Read(*got.object), "value");
}

// Drivers say of a stream that was destroyed what they say of a dead context: the pin went at once,
// while what the stream had been given could still run.
TEST_F(DeviceClient, AStreamThatIsNoMoreKeepsThePin) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  fake().faults().lost_streams.store(1);
  int none = 0;
  ASSERT_TRUE(got.object->ReleaseAfter(&none).ok());
  EXPECT_EQ(device_client_->stats().held_for_streams, 1u);
  EraseHeld("key");
  // Several of the looks at the context, which is well, as another object's release shows.
  MustPut("other", "value");
  for (int i = 0; i < 3; ++i) {
    DeviceGetResult other = device_client_->Get("other");
    ASSERT_TRUE(other.object->ReleaseAfter(nullptr).ok());
    EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 1; }));
  }
  store_->Maintain();
  EXPECT_GT(Limbo(), 0u);
  fake().faults().contexts_dead.store(1);
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
}

TEST_F(DeviceClient, APinGoesWhenTheLastOfItsStreamsIsDone) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  DeviceGetResult got = device_client_->Get("key");
  int none = 0;
  std::vector<DeviceStream> wrong = {nullptr, &none, nullptr};
  EXPECT_EQ(got.object->ReleaseAfterAll(&wrong).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(wrong, (std::vector<DeviceStream>{&none, nullptr})) << "the first is waited for";
  EXPECT_EQ(Read(*got.object), "value") << "still pinned";
  EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
  EraseHeld("key");
  store_->Maintain();
  EXPECT_GT(Limbo(), 0u);
  fake().StickStreams();
  std::vector<DeviceStream> twice = {nullptr, nullptr};
  ASSERT_TRUE(got.object->ReleaseAfterAll(&twice).ok());
  EXPECT_EQ(got.object->address(), 0u);
  EXPECT_EQ(device_client_->stats().held_for_streams, 2u);
  store_->Maintain();
  EXPECT_GT(Limbo(), 0u);
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
}

}  // namespace
}  // namespace infercache::gpu
