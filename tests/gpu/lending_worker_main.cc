// A worker that lends and borrows as it is told, one line at a time, and answers each with a line.
//
//   lending_worker SOCKET DEVICE
//
//   alloc KIND       legacy, vmm, or memory that cannot be shared: private, or pieces, where what
//                    lies at kOffset lies in two allocations. "ok"
//   fill TEXT        writes it at kOffset. "ok"
//   lend KEY         kSize bytes from kOffset on. "lent", or the code of its status
//   lend_or_copy KEY, lend_and_copy KEY  the same, with HostCopy::kFallback and kAlways. Also
//                    "copied", and "lent and copied"
//   borrow KEY       "hit", "miss", or the code
//   borrow_beside KEY  the same by another client of this process
//   in_host          the text that the last borrow found in host memory instead, or "none"
//   not_opened       borrows_not_opened, borrows_from_host and borrows_from_host_bytes
//   read             of what was borrowed last. Its text
//   write TEXT       over it, which only its owner may. "ok", or the code
//   release          it. "ok"
//   release_after    it, with the default stream. "ok"
//   take_back KEY MS "OK", or the code
//   pid              its own, as it sees it
//   why              the message of the last status that was not OK
//   free             the memory. "ok"
//   break            the context of this process. "ok"
//   close            the device; only read, release and free may follow. "ok"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/src/device_impl.h"
#include "tests/gpu/device_buffer.h"
#include "tests/gpu/legacy_buffer.h"
#include "tests/gpu/private_buffer.h"
#include "tests/or_die.h"

namespace infercache::gpu {
namespace {

constexpr uint64_t kOffset = 4096;
constexpr uint64_t kSize = 64;
constexpr uint64_t kBroken = uint64_t{2} << 20;

class LendingWorker {
 public:
  LendingWorker(const std::string& socket, const std::string& uuid)
      : driver_(OrDie(cuda::Driver::Load())),
        device_(OrDie(cuda::FindDevice(*driver_, uuid))),
        context_(OrDie(cuda::PrimaryContext::Retain(driver_, device_.ordinal))),
        socket_(socket) {
    opened_.emplace(Open(&host_));
    copies_.emplace(driver_, device_.ordinal);
  }

  std::string Do(const std::string& line) {
    std::istringstream words(line);
    std::string verb, argument;
    int64_t ms = 0;
    words >> verb >> argument >> ms;
    if (verb == "alloc") return Allocate(argument);
    if (verb == "fill") {
      argument.resize(kSize, '.');
      copies_->WriteTo(address_ + kOffset, argument);
      return "ok";
    }
    if (verb == "lend") return Lend(argument, HostCopy::kNever);
    if (verb == "lend_or_copy") return Lend(argument, HostCopy::kFallback);
    if (verb == "lend_and_copy") return Lend(argument, HostCopy::kAlways);
    if (verb == "borrow") return Borrow(*opened_, argument);
    if (verb == "borrow_beside") {
      if (!beside_.has_value()) beside_.emplace(Open(&host_beside_));
      return Borrow(*beside_, argument);
    }
    if (verb == "in_host") return in_host_;
    if (verb == "not_opened") {
      const DeviceStats stats = opened_->stats();
      return absl::StrCat(stats.borrows_not_opened, " ", stats.borrows_from_host, " ",
                          stats.borrows_from_host_bytes);
    }
    if (verb == "read") {
      return TextOf(copies_->ReadFrom(object_->address(), object_->size_bytes()));
    }
    if (verb == "write") return CodeOf(Overwrite(argument), "ok");
    if (verb == "release") {
      object_.reset();
      return "ok";
    }
    if (verb == "release_after") return CodeOf(object_->ReleaseAfter(nullptr), "ok");
    if (verb == "take_back") {
      return CodeOf(opened_->TakeBack(argument, {.deadline = absl::Milliseconds(ms)}), "OK");
    }
    if (verb == "pid") return std::to_string(getpid());
    if (verb == "why") return why_;
    if (verb == "free") {
      Free();
      return "ok";
    }
    if (verb == "break") {
      Break();
      return "ok";
    }
    if (verb == "close") {
      opened_.reset();
      return "ok";
    }
    return "what?";
  }

 private:
  // Keeps its lane in *host.
  std::unique_ptr<Device::Impl> Open(std::shared_ptr<LocalTransport>* host) {
    const LocalTransport::Options lane = {.path = socket_,
                                          .namespace_name = "default",
                                          .fingerprint = OrDie(Fingerprint::Make({})),
                                          .device = {},
                                          .clock = {}};
    *host = OrDie(LocalTransport::Connect(lane));
    return OrDie(Device::Impl::Open({.lane = lane,
                                     .host = *host,
                                     .deadline = absl::Seconds(30),
                                     .view_in_host =
                                         [host](std::string_view key, const CallOptions&) {
                                           Reached reached = Reached::kNotAsked;
                                           return std::move((*host)->GetNow(
                                               {&key, 1}, LocalTransport::Copies::kAllowed,
                                               absl::Now() + absl::Seconds(30), &reached)[0]);
                                         }},
                                    device_.uuid));
  }
  static std::string TextOf(const std::string& filled) {
    return filled.substr(0, filled.find('.'));
  }
  std::string CodeOf(const absl::Status& status, const char* ok) {
    if (!status.ok()) {
      std::cerr << status << std::endl;
      why_ = std::string(status.message());
    }
    return status.ok() ? ok : absl::StatusCodeToString(status.code());
  }
  void Free() {
    legacy_.reset();
    vmm_.reset();
    private_.reset();
  }
  // By writing to memory that is mapped for reading.
  void Break() {
    const auto memory = OrDie(cuda::Allocation::Create(driver_, device_.ordinal, kBroken));
    const auto mapping =
        OrDie(cuda::Mapping::Map(memory, device_.ordinal, cuda::Mapping::Access::kRead));
    const cuda::CurrentContext current(*context_);
    const char byte = 0;
    (void)driver_->api().memcpy_htod_async(mapping.address(), &byte, 1, nullptr);
    if (driver_->api().stream_synchronize(nullptr) == cuda::kSuccess) {
      OrDie(absl::InternalError("the context survived"));
    }
  }
  absl::Status Overwrite(const std::string& text) {
    const cuda::CurrentContext current(*context_);
    if (!current.status().ok()) return current.status();
    const cuda::Api& api = driver_->api();
    const absl::Status begun = driver_->Check(
        api.memcpy_htod_async(object_->address(), text.data(), text.size(), nullptr), "a write");
    if (!begun.ok()) return begun;
    return driver_->Check(api.stream_synchronize(nullptr), "a write");
  }
  std::string Allocate(const std::string& kind) {
    Free();
    if (kind == "legacy") address_ = legacy_.emplace(context_).address();
    if (kind == "vmm") address_ = vmm_.emplace(driver_, device_.ordinal).address();
    if (kind == "pieces") {
      address_ = private_.emplace(driver_, device_.ordinal).address() + PrivateBuffer::kPieceBytes -
                 kOffset - kSize / 2;
    }
    if (kind == "private") address_ = private_.emplace(driver_, device_.ordinal).address();
    return "ok";
  }
  std::string Lend(const std::string& key, HostCopy host_copy) {
    const LendResult lent = opened_->Lend(
        {.key = key, .source = address_ + kOffset, .size_bytes = kSize, .host_copy = host_copy},
        nullptr);
    if (!lent.copied_to_host) return CodeOf(lent.status, "lent");
    return CodeOf(lent.status, lent.lent ? "lent and copied" : "copied");
  }
  std::string Borrow(Device& device, const std::string& key) {
    DeviceGetResult got = device.Borrow(key);
    in_host_ = "none";
    if (got.in_host.has_value()) {
      const std::span<const std::byte> bytes = got.in_host->bytes();
      in_host_ = TextOf({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    if (!got.hit()) return CodeOf(got.status, "miss");
    object_.emplace(*std::move(got.object));
    return "hit";
  }

  const std::shared_ptr<const cuda::Driver> driver_;
  const cuda::DeviceInfo device_;
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  const std::string socket_;
  std::shared_ptr<LocalTransport> host_, host_beside_;
  std::optional<Device> opened_, beside_;
  std::optional<DeviceBuffer> copies_;
  std::optional<LegacyBuffer> legacy_;
  std::optional<DeviceBuffer> vmm_;
  std::optional<PrivateBuffer> private_;
  cuda::DevicePointer address_ = 0;
  std::optional<DeviceObject> object_;
  std::string why_, in_host_;
};

}  // namespace
}  // namespace infercache::gpu

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  infercache::gpu::LendingWorker worker(argv[1], argv[2]);
  std::puts("ready");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    std::puts(worker.Do(line).c_str());
    std::fflush(stdout);
  }
}
