// A device of this process whose daemon says what a test has it say.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "client/src/device_impl.h"
#include "common/cuda/ipc.h"
#include "tests/client/fake_local_daemon.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/device_buffer.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {

class ScriptedDaemon : public cuda::GpuTest {
 protected:
  static constexpr uint64_t kSize = 64;
  static constexpr uint64_t kAllocation = 7;  // what the daemon calls `lent_`

  void SetUp() override {
    cuda::GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (is_fake()) before_ = fake().UseOf(0);
    context_ = OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal));
    lent_.emplace(driver_, device_.ordinal);
    lent_->Write("text");
    exported_ = OrDie(cuda::ExportMemory(
        *context_, OrDie(cuda::FindRange(*context_, device_.ordinal, lent_->address()))));
  }
  void TearDown() override {
    if (is_fake()) fake().ClearFaults();
    Stop();
    exported_ = {};
    lent_.reset();
    context_.reset();
    if (is_fake()) {
      EXPECT_TRUE(local::Eventually([&] { return fake().UseOf(0) == before_; })) << "still open";
    }
    cuda::GpuTest::TearDown();
  }

  // A daemon that brings those together that lend, and a client of it.
  void Start(FakeLocalDaemon::Script script) {
    daemon_.emplace([script = std::move(script)](const v1::LocalRequest& request,
                                                 FakeLocalDaemon::Answer& answer) {
      if (request.has_hello()) answer.response.mutable_welcome()->set_lending(true);
      script(request, answer);
    });
    const LocalTransport::Options lane = {.path = daemon_->path(),
                                          .namespace_name = "default",
                                          .fingerprint = *Fingerprint::Make({}),
                                          .device = {},
                                          .clock = {}};
    host_ = OrDie(LocalTransport::Connect(lane));
    client_ = std::make_unique<Device>(OrDie(Device::Impl::Open(
        {.lane = lane,
         .host = host_,
         .deadline = absl::Seconds(30),
         .view_in_host = [](std::string_view, const CallOptions&) { return GetResult(); }},
        device_.uuid)));
  }
  void Stop() {
    client_.reset();
    host_.reset();
    daemon_.reset();
  }

  LendResult Lend(std::string_view key, const CallOptions& call = {}) {
    return client_->Lend({.key = key, .source = lent_->address(), .size_bytes = kSize}, nullptr,
                         call);
  }
  // That all of it is lent, by numbers from `loan` on.
  static void SayLent(const v1::LocalRequest& request, uint64_t loan,
                      FakeLocalDaemon::Answer& answer) {
    v1::Lent& lent = *answer.response.mutable_lent();
    lent.set_allocation(kAllocation);
    for (int i = 0; i < request.lend().items_size(); ++i) lent.add_items()->set_loan(loan + i);
  }
  // What is there under a key: `loan`, at the beginning of `allocation`.
  static v1::BorrowedItem& SayBorrowed(uint64_t loan, uint64_t allocation,
                                       FakeLocalDaemon::Answer& answer) {
    v1::BorrowedItem& item = *answer.response.mutable_borrowed()->add_items();
    item.set_loan(loan);
    item.set_allocation(allocation);
    item.mutable_object()->set_size_bytes(kSize);
    return item;
  }
  // That `allocation` is what `lent_` is.
  v1::LentMemory& SayMemory(uint64_t allocation, FakeLocalDaemon::Answer& answer) {
    v1::LentMemory& memory = *answer.response.mutable_lent_memory();
    memory.set_kind(v1::LentMemory::KIND_DESCRIPTOR);
    memory.set_device(device_.uuid);
    memory.set_size_bytes(DeviceBuffer::kBytes);
    memory.set_allocation(allocation);
    answer.descriptors = {exported_.descriptor.get()};
    return memory;
  }

  fake_cuda::Use before_;
  std::shared_ptr<const cuda::PrimaryContext> context_;
  std::optional<DeviceBuffer> lent_;
  cuda::ExportedMemory exported_;
  std::optional<FakeLocalDaemon> daemon_;
  std::shared_ptr<LocalTransport> host_;
  std::unique_ptr<Device> client_;
};

}  // namespace infercache::gpu
