#include "tests/conformance/transports.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/cuda/driver.h"
#include "server/gpu/device_tiers.h"
#include "tests/fake_cuda/fake_driver.h"
#include "tests/or_die.h"

namespace infercache {
namespace {

constexpr uint64_t kOtherQuotaBytes = uint64_t{8} << 20;

store::NamespaceSpec OpenNamespace(const char* name, uint64_t quota_bytes) {
  store::NamespaceSpec spec;
  spec.name = name;
  spec.quota_bytes = quota_bytes;
  spec.grpc_open = true;
  return spec;
}

}  // namespace

void EvictionRecord::OnEvent(const store::Event& event) {
  // Or of its tier, which is called after it: "small@GPU-...".
  const std::string_view name = event.namespace_name.substr(0, event.namespace_name.find('@'));
  if (event.kind != store::EventKind::kEvicted || name != kSmallNamespace) return;
  MutexLock lock(&mu_);
  sizes_[event.sequence] = event.size_bytes;
}

std::vector<uint64_t> EvictionRecord::Sizes() const {
  MutexLock lock(&mu_);
  std::vector<uint64_t> sizes;
  for (const auto& [sequence, size] : sizes_) sizes.push_back(size);
  return sizes;
}

InProcessDaemon::InProcessDaemon(uint64_t quota_bytes)
    : store_({.capacity_bytes = quota_bytes + 2 * kOtherQuotaBytes, .shards = 4}, clock_,
             &evicted_) {
  OrDie(store_.CreateNamespace(OpenNamespace(kNamespace, quota_bytes)));
  OrDie(store_.CreateNamespace(OpenNamespace(kOtherNamespace, kOtherQuotaBytes)));
  store::NamespaceSpec small = OpenNamespace(kSmallNamespace, kOtherQuotaBytes);
  small.max_objects = kSmallObjects;
  OrDie(store_.CreateNamespace(std::move(small)));
}

std::unique_ptr<InProcessDaemon> InProcessDaemon::Grpc(std::string listen, uint64_t quota_bytes,
                                                       uint64_t max_pinned_bytes) {
  std::unique_ptr<InProcessDaemon> daemon(new InProcessDaemon(quota_bytes));
  rpc::RpcOptions options;
  options.listen = {std::move(listen)};
  options.max_pinned_bytes = max_pinned_bytes;
  options.max_pinned_bytes_per_connection = max_pinned_bytes / 4 * 3;
  daemon->server_ = OrDie(rpc::RpcServer::Start(options, daemon->store_, {}));
  daemon->endpoint_ = daemon->server_->addresses().at(0);
  return daemon;
}

std::unique_ptr<InProcessDaemon> InProcessDaemon::Local(uint64_t quota_bytes) {
  std::unique_ptr<InProcessDaemon> daemon(new InProcessDaemon(quota_bytes));
  daemon->ServeLocally({});
  return daemon;
}

std::unique_ptr<InProcessDaemon> InProcessDaemon::Gpu(uint64_t quota_bytes) {
  // One for the process: that is how a driver sees it.
  static fake_cuda::FakeDriver fake(1, uint64_t{512} << 20);
  const auto driver = OrDie(cuda::Driver::Load());
  const cuda::DeviceInfo gpu = OrDie(cuda::ListDevices(*driver)).at(0);
  std::printf("driver %d, %s, %s\n", driver->version(), gpu.name.c_str(), gpu.uuid.c_str());
  std::unique_ptr<InProcessDaemon> daemon(new InProcessDaemon(quota_bytes));
  daemon->device_ = gpu.uuid;
  gpu::DeviceTiers tiers({});
  for (const auto& ns : daemon->store_.Namespaces()) {
    OrDie(tiers.Add(daemon->store_, {.ns = ns, .device = gpu.uuid, .bytes = ns->spec().quota_bytes})
              .status);
  }
  // A test may hold nearly all there is.
  local::LocalOptions options;
  options.pin_budget_divisor = 1;
  daemon->ServeLocally(std::move(options));
  return daemon;
}

void InProcessDaemon::ServeLocally(local::LocalOptions options) {
  options.socket_path = NewSocketPath();
  local_server_ = OrDie(local::LocalServer::Start(options, store_));
  endpoint_ = absl::StrCat("unix:", options.socket_path);
}

store::NamespaceStats InProcessDaemon::Stats(std::string_view name) const {
  const auto ns = OrDie(store_.FindNamespace(name));
  return device_.empty() ? ns->Stats() : OrDie(ns->FindDeviceTier(device_))->Stats();
}

uint64_t InProcessDaemon::PinnedResponseBytes() const {
  return server_ == nullptr ? 0 : server_->stats().pinned_response_bytes;
}

std::string NewSocketPath() {
  static int count = 0;
  return absl::StrCat(testing::TempDir(), "/infercache-conformance-", getpid(), "-", ++count,
                      ".sock");
}

}  // namespace infercache
