// Copies between a GPU and host memory. Daemon and client are one process here.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "client/src/device_thread.h"
#include "client/src/host_staging.h"
#include "tests/gpu/device_client_fixture.h"
#include "tests/or_die.h"

namespace infercache::gpu {
namespace {

using local::Eventually;

TEST_F(DeviceClient, AnObjectInHostMemoryIsCopiedToTheGpuAndCounted) {
  store::NamespaceVerbs(Host()).MustPut("key", "from host");
  const DeviceGetIntoResult got =
      device_client_->GetInto("key", buffer_->address(), DeviceBuffer::kBytes, nullptr);
  ASSERT_TRUE(got.hit) << got.status;
  EXPECT_TRUE(got.from_host);
  EXPECT_EQ(buffer_->Read(got.size_bytes), "from host");
  EXPECT_EQ(device_client_->stats().host_to_device_copies, 1u);
  EXPECT_EQ(device_client_->stats().host_to_device_bytes, 9u);
  MustPut("key", "from device");
  const DeviceGetIntoResult near =
      device_client_->GetInto("key", buffer_->address(), DeviceBuffer::kBytes, nullptr);
  EXPECT_FALSE(near.from_host);
  EXPECT_EQ(buffer_->Read(near.size_bytes), "from device");
  EXPECT_EQ(device_client_->stats().host_to_device_copies, 1u);
  EXPECT_EQ(device_client_->GetInto("key", buffer_->address(), 3, nullptr).status.code(),
            absl::StatusCode::kOutOfRange);
}

TEST_F(DeviceClient, AnObjectInTheGpuIsCopiedToHostMemoryAndCounted) {
  MustPut("key", "value");
  std::string value(5, '\0');
  const auto bytes = std::as_writable_bytes(std::span(value));
  const GetIntoResult got = device_client_->GetIntoHost("key", bytes);
  ASSERT_TRUE(got.hit) << got.status;
  EXPECT_EQ(value, "value");
  EXPECT_EQ(device_client_->stats().device_to_host_bytes, 5u);
  EXPECT_EQ(device_client_->GetIntoHost("key", bytes.first(4)).status.code(),
            absl::StatusCode::kOutOfRange);
}

// What had moved down was a miss.
TEST_F(DeviceClient, WhatIsInHostMemoryAloneIsCopiedFromThere) {
  store::NamespaceVerbs(Host()).MustPut("key", "from host");
  std::string value(9, '\0');
  const auto bytes = std::as_writable_bytes(std::span(value));
  const GetIntoResult got = device_client_->GetIntoHost("key", bytes);
  ASSERT_TRUE(got.hit) << got.status;
  EXPECT_EQ(got.size_bytes, 9u);
  EXPECT_EQ(value, "from host");
  const GetIntoResult large = device_client_->GetIntoHost("key", bytes.first(3));
  EXPECT_EQ(large.status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(large.size_bytes, 9u);
  const GetIntoResult none = device_client_->GetIntoHost("none", bytes);
  EXPECT_FALSE(none.hit);
  EXPECT_TRUE(none.status.ok()) << none.status;
  EXPECT_EQ(device_client_->stats().device_to_host_copies, 0u);
  MustPut("key", "device");
  EXPECT_TRUE(device_client_->GetIntoHost("key", bytes).hit);
  EXPECT_EQ(value, "deviceost");
}

// What host memory had under the key was older, and was taken for it.
TEST_F(DeviceClient, HostMemoryDoesNotAnswerForWhatMayBeInTheGpu) {
  constexpr uint64_t kSize = uint64_t{1} << 20;  // of the tier's 8 MiB 2 may be held
  const DevicePutItem item = {.key = "key", .source = buffer_->address(), .size_bytes = kSize};
  ASSERT_EQ(device_client_->Put(item, nullptr).outcome, PutOutcome::kStored);
  store::NamespaceVerbs(Host()).MustPut("key", "older");
  std::vector<std::byte> to(kSize);
  const DeviceGetResult first = device_client_->Get("key"), second = device_client_->Get("key");
  ASSERT_TRUE(first.hit() && second.hit());
  const DeviceGetIntoResult into =
      device_client_->GetInto("key", buffer_->address(), DeviceBuffer::kBytes, nullptr);
  EXPECT_FALSE(into.hit);
  EXPECT_TRUE(absl::IsResourceExhausted(into.status)) << into.status;
  const GetIntoResult to_host = device_client_->GetIntoHost("key", to);
  EXPECT_FALSE(to_host.hit);
  EXPECT_TRUE(absl::IsResourceExhausted(to_host.status)) << to_host.status;
}

// As GetInto's: it was refused while the thread had not heard yet that copies were done.
TEST_F(DeviceClient, GetIntoHostHasRoomWhereCopiesAreDone) {
  constexpr uint64_t kSize = uint64_t{1} << 20;
  const DevicePutItem item = {.key = "key", .source = buffer_->address(), .size_bytes = kSize};
  ASSERT_EQ(device_client_->Put(item, nullptr).outcome, PutOutcome::kStored);
  std::vector<std::byte> to(kSize);
  for (int i = 0; i < 300; ++i) {
    for (int k = 0; k < 2; ++k) {
      ASSERT_TRUE(device_client_->GetInto("key", buffer_->address(), kSize, nullptr).hit);
      buffer_->Wait();
    }
    const GetIntoResult got = device_client_->GetIntoHost("key", to);
    ASSERT_TRUE(got.hit) << got.status << ", copy " << i;
  }
}

// Its pin did not count any more, and what it copied was taken for the object all the same.
TEST_F(DeviceClient, ACopyOfWhatIsNoLongerPinnedIsNone) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  constexpr uint64_t kSize = uint64_t{1} << 20;
  constexpr uint64_t kFit = HostStaging::kMaxBuffers * HostStaging::kBufferBytes / kSize;
  MustPut("key", "value");
  store::NamespaceVerbs(Host()).MustPut("in host", std::string(kSize, 'x'));
  const DeviceGetResult view = device_client_->Get("key");
  const auto get_into = [this] {
    return device_client_->GetInto("in host", buffer_->address(), kSize, nullptr);
  };
  fake().StickStreams();
  for (uint64_t i = 0; i < kFit; ++i) ASSERT_TRUE(get_into().hit);
  ASSERT_TRUE(view.hit());
  std::string to(5, '.');
  absl::Status copied;
  DeviceGetIntoResult into;
  std::thread to_host([&] {
    copied = view.object->CopyToHost(0, std::as_writable_bytes(std::span(to)), absl::Seconds(30));
  });
  std::thread to_device([&] { into = get_into(); });
  EXPECT_TRUE(Eventually([&] { return Host()->Stats().client_pins == 1; })) << "it waits for room";
  server_->Shutdown(absl::InfinitePast());  // which ends the sessions
  fake().FreeStreams();
  to_host.join();
  to_device.join();
  EXPECT_TRUE(absl::IsUnavailable(copied)) << copied;
  EXPECT_TRUE(absl::IsUnavailable(into.status)) << into.status;
  EXPECT_FALSE(into.hit);
}

TEST_F(DeviceClient, CopiesToHostMemoryEndByTheirDeadline) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  MustPut("key", "value");
  std::string to(5, '.');
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(to));
  DeviceGetResult view = device_client_->Get("key");
  fake().StickStreams();
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      device_client_->GetIntoHost("key", bytes, {.deadline = absl::Milliseconds(20)}).status));
  EXPECT_TRUE(absl::IsDeadlineExceeded(view.object->CopyToHost(0, bytes, absl::Milliseconds(20))));
  view.object.reset();
  EraseHeld("key");
  store_->Maintain();
  EXPECT_GT(Limbo(), 0u) << "the GPU may still read it";
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return store_->Maintain(), Limbo() == 0; }));
  EXPECT_EQ(to, ".....") << "written after the call was over";
}

// More than all buffers that copies go through, in pieces that do not fit them.
TEST_F(DeviceClient, LargeCopiesComeAndGoWhole) {
  constexpr uint64_t kLarge = 22 * DeviceBuffer::kBytes;
  static_assert(kLarge > HostStaging::kBufferBytes * HostStaging::kMaxBuffers);
  const auto staging = std::make_shared<HostStaging>(
      OrDie(DeviceThread::Start(OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal)))),
      device_.uuid);
  DeviceBuffer large(driver_, device_.ordinal, kLarge);
  std::vector<std::byte> value(kLarge - 12345), back(value.size());
  for (size_t i = 0; i < value.size(); ++i) value[i] = static_cast<std::byte>(i * 31 >> 3);
  const auto deadline = DeviceThread::Clock::now() + std::chrono::seconds(30);
  ASSERT_TRUE(staging->CopyToDevice(large.address(), value, nullptr, deadline).ok());
  large.Wait();
  ASSERT_TRUE(staging->CopyToHost(large.address(), back, nullptr, deadline).ok());
  EXPECT_TRUE(back == value);
}

// Each held a buffer and waited for another one, until its deadline.
TEST_F(DeviceClient, CopiesThatShareTooFewBuffersComeToTheirEnd) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  constexpr uint64_t kLarge = 4 * HostStaging::kBufferBytes;
  fake().rare_faults().streams_to_make.store(2);
  const auto staging = std::make_shared<HostStaging>(
      OrDie(DeviceThread::Start(OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal)))),
      device_.uuid);
  DeviceBuffer large(driver_, device_.ordinal, kLarge);
  const std::string value = "the last bytes";
  large.WriteTo(large.address() + kLarge - value.size(), value);
  const auto deadline = DeviceThread::Clock::now() + std::chrono::seconds(30);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      std::vector<std::byte> to(kLarge);
      const absl::Status copied = staging->CopyToHost(large.address(), to, nullptr, deadline);
      EXPECT_TRUE(copied.ok()) << copied;
      EXPECT_EQ(std::memcmp(to.data() + kLarge - value.size(), value.data(), value.size()), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceClient, NobodyWaitsForACopyFromHostMemory) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  store::NamespaceVerbs(Host()).MustPut("key", "from host");
  for (const bool registers : {false, true}) {
    const std::unique_ptr<Device> device = OpenDevice(registers);
    const uint64_t before = fake().calls().registers.load();
    fake().StickStreams();
    for (int i = 0; i < 2; ++i) {
      const DeviceGetIntoResult got =
          device->GetInto("key", buffer_->address(), DeviceBuffer::kBytes, nullptr);
      ASSERT_TRUE(got.hit) << got.status;
    }
    EXPECT_EQ(device->stats().held_for_streams, 2u);
    // The namespace's only chunk, once; or memory for copies.
    EXPECT_EQ(fake().calls().registers.load() - before, registers ? 1u : HostStaging::kMaxBuffers);
    EXPECT_EQ(device->stats().host_chunks_registered, registers ? 1u : 0u);
    fake().FreeStreams();
    EXPECT_TRUE(Eventually([&] { return device->stats().held_for_streams == 0; }));
    EXPECT_EQ(buffer_->Read(9), "from host");
  }
}

// Each took a buffer of 4 MiB for itself: the fifth waited for the first one's stream.
TEST_F(DeviceClient, SmallCopiesFromHostMemoryShareABuffer) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  constexpr uint64_t kSize = 1000;
  constexpr int kCopies = 100;
  store::NamespaceVerbs host(Host());
  const auto value = [](int i) { return std::string(kSize, static_cast<char>('a' + i % 26)); };
  for (int i = 0; i < kCopies; ++i) host.MustPut("key" + std::to_string(i), value(i));
  fake().StickStreams();
  for (int i = 0; i < kCopies; ++i) {
    const DeviceGetIntoResult got = device_client_->GetInto(
        "key" + std::to_string(i), buffer_->address() + i * kSize, kSize, nullptr);
    ASSERT_TRUE(got.hit) << got.status << ", copy " << i;
  }
  fake().FreeStreams();
  buffer_->Wait();
  for (int i = 0; i < kCopies; ++i) {
    EXPECT_EQ(buffer_->ReadFrom(buffer_->address() + i * kSize, kSize), value(i));
  }
}

// What is under way at once fills all buffers, and what comes then waits for one of them.
TEST_F(DeviceClient, CopiesFromHostMemoryFillAllBuffers) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  constexpr uint64_t kSize = 768 * 1024;  // not a part of a buffer's
  constexpr uint64_t kFit = HostStaging::kMaxBuffers * HostStaging::kBufferBytes / kSize;
  store::NamespaceVerbs(Host()).MustPut("key", std::string(kSize, 'x'));
  const auto get_into = [&](absl::Duration deadline) {
    return device_client_->GetInto("key", buffer_->address(), kSize, nullptr,
                                   {.deadline = deadline});
  };
  for (int round = 0; round < 3; ++round) {
    fake().StickStreams();
    for (uint64_t i = 0; i < kFit; ++i) ASSERT_TRUE(get_into(absl::Seconds(30)).hit);
    EXPECT_TRUE(absl::IsDeadlineExceeded(get_into(absl::Milliseconds(20)).status));
    fake().FreeStreams();
    EXPECT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
  }
  EXPECT_EQ(buffer_->Read(kSize), std::string(kSize, 'x'));
}

// It was unmapped, and what came there next was registered for the other GPUs.
TEST_F(DeviceClient, HostMemoryThatStaysRegisteredStaysMapped) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  store::NamespaceVerbs(Host()).MustPut("key", "from host");
  device_client_ = OpenDevice(/*registers=*/true);
  ASSERT_TRUE(device_client_->GetInto("key", buffer_->address(), 100, nullptr).hit);
  ASSERT_EQ(device_client_->stats().host_chunks_registered, 1u);
  buffer_->Wait();
  ASSERT_TRUE(Eventually([&] { return device_client_->stats().held_for_streams == 0; }));
  Reached reached = Reached::kNotAsked;
  const std::string_view key = "key";
  auto view =
      host_->GetNow({&key, 1}, LocalTransport::Copies::kRefused, absl::InfiniteFuture(), &reached);
  const auto page = reinterpret_cast<uintptr_t>(view[0].object->bytes().data()) & ~uintptr_t{4095};
  view.clear();
  fake().faults().contexts_dead.store(1);
  device_client_.reset();
  host_.reset();
  buffer_.reset();
  ASSERT_TRUE(Eventually([] { return fake().UseOf(0).contexts == 0; })) << "all is done";
  unsigned char resident = 0;
  EXPECT_EQ(mincore(reinterpret_cast<void*>(page), 1, &resident), 0) << "unmapped";
}

TEST_F(DeviceClient, HostMemoryThatCannotBeRegisteredIsCopiedAllTheSame) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  store::NamespaceVerbs(Host()).MustPut("key", "from host");
  fake().faults().refuse_registers.store(1);
  const std::unique_ptr<Device> device = OpenDevice(/*registers=*/true);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(device->GetInto("key", buffer_->address(), DeviceBuffer::kBytes, nullptr).hit);
  }
  EXPECT_EQ(buffer_->Read(9), "from host");
  EXPECT_EQ(device->stats().host_registration_failures, 1u) << "it is tried once";
}

}  // namespace
}  // namespace infercache::gpu
