#include "tests/conformance/transports.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/or_die.h"

namespace infercache {
namespace {

store::NamespaceSpec OpenNamespace(const char* name, uint64_t quota_bytes) {
  store::NamespaceSpec spec;
  spec.name = name;
  spec.quota_bytes = quota_bytes;
  spec.grpc_open = true;
  return spec;
}

}  // namespace

void EvictionRecord::OnEvent(const store::Event& event) {
  if (event.kind != store::EventKind::kEvicted || event.namespace_name != kSmallNamespace) return;
  MutexLock lock(&mu_);
  sizes_[event.sequence] = event.size_bytes;
}

std::vector<uint64_t> EvictionRecord::Sizes() const {
  MutexLock lock(&mu_);
  std::vector<uint64_t> sizes;
  for (const auto& [sequence, size] : sizes_) sizes.push_back(size);
  return sizes;
}

InProcessDaemon::InProcessDaemon()
    : store_({.capacity_bytes = uint64_t{160} << 20, .shards = 4}, clock_, &evicted_) {
  OrDie(store_.CreateNamespace(OpenNamespace(kNamespace, uint64_t{128} << 20)));
  OrDie(store_.CreateNamespace(OpenNamespace(kOtherNamespace, uint64_t{8} << 20)));
  store::NamespaceSpec small = OpenNamespace(kSmallNamespace, uint64_t{8} << 20);
  small.max_objects = kSmallObjects;
  OrDie(store_.CreateNamespace(std::move(small)));
}

std::unique_ptr<InProcessDaemon> InProcessDaemon::Grpc(std::string listen,
                                                       uint64_t max_pinned_bytes) {
  std::unique_ptr<InProcessDaemon> daemon(new InProcessDaemon);
  rpc::RpcOptions options;
  options.listen = {std::move(listen)};
  options.max_pinned_bytes = max_pinned_bytes;
  options.max_pinned_bytes_per_connection = max_pinned_bytes / 4 * 3;
  daemon->server_ = OrDie(rpc::RpcServer::Start(options, daemon->store_, {}));
  daemon->endpoint_ = daemon->server_->addresses().at(0);
  return daemon;
}

std::unique_ptr<InProcessDaemon> InProcessDaemon::Local() {
  std::unique_ptr<InProcessDaemon> daemon(new InProcessDaemon);
  local::LocalOptions options;
  options.socket_path = NewSocketPath();
  daemon->local_server_ = OrDie(local::LocalServer::Start(options, daemon->store_));
  daemon->endpoint_ = absl::StrCat("unix:", options.socket_path);
  return daemon;
}

store::NamespaceStats InProcessDaemon::Stats(std::string_view ns) const {
  return OrDie(store_.FindNamespace(ns))->Stats();
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
