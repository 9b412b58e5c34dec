// A client of a tier, whose daemon is in this process.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "client/src/device_impl.h"
#include "infercache/device.h"
#include "tests/gpu/device_buffer.h"
#include "tests/gpu/gpu_local_fixture.h"

namespace infercache::gpu {

class DeviceClient : public GpuLocalFixture {
 protected:
  void SetUp() override {
    GpuLocalFixture::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ServeTier();
    buffer_.emplace(driver_, device_.ordinal);
    buffers_ = is_fake() ? fake().UseOf(0).mappings : 0;
    device_client_ = OpenDevice();
  }
  void TearDown() override {
    if (is_fake()) fake().ClearFaults();
    device_client_.reset();
    host_.reset();
    buffer_.reset();
    // What a stream was still at is given back on the device's thread.
    if (is_fake()) {
      EXPECT_TRUE(local::Eventually([&] { return fake().UseOf(0).mappings == 0; }))
          << "still mapped";
    }
    GpuLocalFixture::TearDown();
  }
  std::unique_ptr<Device> OpenDevice(bool registers = false) {
    const LocalTransport::Options lane = {.path = socket_path(),
                                          .namespace_name = "default",
                                          .fingerprint = *Fingerprint::Make({}),
                                          .device = {},
                                          .clock = {}};
    if (host_ == nullptr) host_ = *LocalTransport::Connect(lane);
    auto impl = Device::Impl::Open(
        {.lane = lane,
         .host = host_,
         .deadline = absl::Seconds(30),
         .registers_host_memory = registers,
         .view_in_host =
             [this](std::string_view key, const CallOptions&) {
               Reached reached;
               return std::move(host_->GetNow({&key, 1}, LocalTransport::Copies::kAllowed,
                                              absl::Now() + absl::Seconds(30), &reached)[0]);
             }},
        device_.uuid);
    EXPECT_TRUE(impl.ok()) << impl.status();
    return impl.ok() ? std::make_unique<Device>(*std::move(impl)) : nullptr;
  }
  PutResult Put(std::string_view key, std::string_view value, const CallOptions& call = {}) {
    buffer_->Write(value);
    return device_client_->Put(
        {.key = key, .source = buffer_->address(), .size_bytes = value.size()}, nullptr, call);
  }
  void MustPut(std::string_view key, std::string_view value) {
    const PutResult put = Put(key, value);
    ASSERT_EQ(put.outcome, PutOutcome::kStored) << put.status;
  }
  std::string Read(const DeviceObject& object) {
    return buffer_->ReadFrom(object.address(), object.size_bytes());
  }
  uint64_t Limbo() { return Tier()->Stats().limbo_bytes; }
  // Erased while `key` is held: what is held is in limbo for as long.
  void EraseHeld(std::string_view key) { ASSERT_TRUE(Tier().Erase(key)); }

  std::optional<DeviceBuffer> buffer_;
  uint64_t buffers_ = 0;
  std::shared_ptr<LocalTransport> host_;
  std::unique_ptr<Device> device_client_;
};

}  // namespace infercache::gpu
