// What the driver is asked for on the path of a request: copies and streams, and never a handle.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/gpu/device_client_fixture.h"

namespace infercache::gpu {
namespace {

class RequestPath : public DeviceClient {
 protected:
  static constexpr int kCalls = 100;
  static constexpr std::string_view kValue = "value";

  void SetUp() override {
    DeviceClient::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!is_fake()) GTEST_SKIP() << "a real driver does not count";
    MustPut("key", kValue);
    store::NamespaceVerbs(Host()).MustPut("below", kValue);
  }
  // Whatever makes, opens or closes a handle of memory, maps it or registers it, and contexts.
  static std::array<uint64_t, 11> Handles() {
    const fake_cuda::Calls& calls = fake().calls();
    return {calls.creates,     calls.exports,   calls.imports,     calls.maps,
            calls.unmaps,      calls.registers, calls.unregisters, calls.contexts,
            calls.ipc_exports, calls.ipc_opens, calls.ipc_closes};
  }
  // The first may open what it likes.
  template <class Call>
  static void ExpectNoHandleAfterTheFirst(Call call) {
    call(-1);
    if (::testing::Test::HasFailure()) return;
    const auto before = Handles();
    const fake_cuda::Use use = fake().UseOf(0);
    for (int i = 0; i < kCalls && !::testing::Test::HasFailure(); ++i) call(i);
    EXPECT_EQ(Handles(), before);
    EXPECT_EQ(fake().UseOf(0), use);
  }
};

TEST_F(RequestPath, OfAGet) {
  ExpectNoHandleAfterTheFirst([&](int) { ASSERT_TRUE(device_client_->Get("key").hit()); });
}

TEST_F(RequestPath, OfAMiss) {
  ExpectNoHandleAfterTheFirst([&](int) { ASSERT_FALSE(device_client_->Get("nowhere").hit()); });
}

TEST_F(RequestPath, OfAGetThatAStreamReleases) {
  ExpectNoHandleAfterTheFirst([&](int) {
    DeviceGetResult got = device_client_->Get("key");
    ASSERT_TRUE(got.hit()) << got.status;
    ASSERT_TRUE(got.object->ReleaseAfter(nullptr).ok());
  });
}

TEST_F(RequestPath, OfAGetInto) {
  ExpectNoHandleAfterTheFirst([&](int) {
    const DeviceGetIntoResult got =
        device_client_->GetInto("key", buffer_->address(), DeviceBuffer::kBytes, nullptr);
    ASSERT_TRUE(got.hit && !got.from_host) << got.status;
    ASSERT_EQ(buffer_->Read(got.size_bytes), kValue);
  });
}

TEST_F(RequestPath, OfAGetIntoFromHostMemory) {
  ExpectNoHandleAfterTheFirst([&](int) {
    const DeviceGetIntoResult got =
        device_client_->GetInto("below", buffer_->address(), DeviceBuffer::kBytes, nullptr);
    ASSERT_TRUE(got.hit && got.from_host) << got.status;
  });
}

TEST_F(RequestPath, OfAGetIntoHost) {
  std::string value(kValue.size(), '\0');
  ExpectNoHandleAfterTheFirst([&](int) {
    value.assign(kValue.size(), '\0');
    ASSERT_TRUE(device_client_->GetIntoHost("key", std::as_writable_bytes(std::span(value))).hit);
    ASSERT_EQ(value, kValue);
  });
}

TEST_F(RequestPath, OfAPut) {
  ExpectNoHandleAfterTheFirst([&](int i) {
    ASSERT_EQ(Put("put" + std::to_string(i), kValue).outcome, PutOutcome::kStored);
  });
}

TEST_F(RequestPath, OfAReservationAndItsCommit) {
  ExpectNoHandleAfterTheFirst([&](int i) {
    const std::string key = "reserved" + std::to_string(i);
    const ReserveItem item = {.key = key, .size_bytes = kValue.size()};
    auto reserved = device_client_->Reserve({&item, 1});
    ASSERT_TRUE(reserved[0].reservation.has_value()) << reserved[0].status;
    buffer_->WriteTo(reserved[0].reservation->address(), kValue);
    const auto committed = device_client_->Commit({&*reserved[0].reservation, 1}, nullptr);
    ASSERT_EQ(committed[0].outcome, PutOutcome::kStored) << committed[0].status;
  });
}

TEST_F(RequestPath, OfAReservationThatIsDropped) {
  ExpectNoHandleAfterTheFirst([&](int) {
    const ReserveItem item = {.key = "dropped", .size_bytes = 5};
    ASSERT_TRUE(device_client_->Reserve({&item, 1})[0].reservation.has_value());
  });
}

// By puts of one client while another one has the tier mapped too.
TEST_F(RequestPath, OfPutsThatEvict) {
  const auto other = OpenDevice();
  ASSERT_TRUE(other->Get("key").hit());
  buffer_->Write(std::string(1000, 'v'));
  ExpectNoHandleAfterTheFirst([&](int i) {
    const std::string key = "large" + std::to_string(i);
    const DevicePutItem item = {
        .key = key, .source = buffer_->address(), .size_bytes = uint64_t{1} << 20};
    ASSERT_EQ(device_client_->Put(item, nullptr).outcome, PutOutcome::kStored);
    ASSERT_TRUE(other->Get(key).hit());
  });
  EXPECT_GT(Tier()->Stats().evicted, 50u);
}

}  // namespace
}  // namespace infercache::gpu
