#include "server/store_options.h"

namespace infercache::server {

store::LocalAccess ToAccess(const LocalPeers& peers) {
  return {.everyone = peers.everyone, .users = peers.users, .groups = peers.groups};
}

store::StoreOptions MakeStoreOptions(const Config& config) {
  store::StoreOptions options;
  options.capacity_bytes = config.capacity_bytes;
  options.chunk_bytes = config.chunk_bytes;
  options.shards = static_cast<uint32_t>(config.shards);
  options.arena_pages = config.arena_pages == "4k"        ? PageChoice::k4k
                        : config.arena_pages == "thp"     ? PageChoice::kThp
                        : config.arena_pages == "hugetlb" ? PageChoice::kHugetlb
                                                          : PageChoice::kAuto;
  options.lock_memory = config.lock_memory;
  return options;
}

store::NamespaceSpec MakeNamespaceSpec(const NamespaceConfig& config) {
  store::NamespaceSpec spec;
  spec.name = config.name;
  spec.quota_bytes = config.quota_bytes;
  spec.max_objects = config.max_objects;
  spec.policy = config.policy;
  spec.checksums = config.checksums;
  spec.required_fingerprint = config.require;
  spec.grpc_open = config.grpc == "open";
  spec.local_users = ToAccess(config.local_user_ids);
  spec.local_writers = ToAccess(config.local_writer_ids);
  // Nobody writes in place: whoever may use it may send its puts.
  if (config.local_writers.empty()) {
    spec.local_writers = store::LocalAccess();
    spec.writable_by_clients = false;
  }
  return spec;
}

}  // namespace infercache::server
