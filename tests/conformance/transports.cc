#include "tests/conformance/transports.h"

#include <unistd.h>

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

InProcessDaemon::InProcessDaemon()
    : store_({.capacity_bytes = uint64_t{160} << 20, .shards = 4}, clock_) {
  OrDie(store_.CreateNamespace(OpenNamespace(kNamespace, uint64_t{128} << 20)));
  OrDie(store_.CreateNamespace(OpenNamespace(kOtherNamespace, uint64_t{8} << 20)));
}

std::unique_ptr<InProcessDaemon> InProcessDaemon::Grpc(std::string listen) {
  std::unique_ptr<InProcessDaemon> daemon(new InProcessDaemon);
  rpc::RpcOptions options;
  options.listen = {std::move(listen)};
  // An answer of 40 MiB is within the bounds, a batch of 96 MiB is not.
  options.max_pinned_bytes = uint64_t{64} << 20;
  options.max_pinned_bytes_per_connection = uint64_t{48} << 20;
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

store::NamespaceStats InProcessDaemon::Stats() const {
  return OrDie(store_.FindNamespace(kNamespace))->Stats();
}

std::string NewSocketPath() {
  static int count = 0;
  return absl::StrCat(testing::TempDir(), "/infercache-conformance-", getpid(), "-", ++count,
                      ".sock");
}

}  // namespace infercache
