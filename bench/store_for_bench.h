// A namespace with nothing around it.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "bench/block_key.h"
#include "common/clock.h"
#include "common/fingerprint.h"
#include "server/store/store.h"

namespace infercache::store {

using bench::BlockKey;

struct BenchStore {
  // `background`: with the daemon's upkeep thread.
  BenchStore(uint64_t quota_bytes, uint64_t max_objects, bool background = false)
      : store({.capacity_bytes = quota_bytes + (uint64_t{1} << 20), .background = background},
              clock) {
    NamespaceSpec spec;
    spec.name = "bench";
    spec.quota_bytes = quota_bytes;
    spec.max_objects = max_objects;
    auto created = store.CreateNamespace(spec);
    if (!created.ok()) {
      std::fprintf(stderr, "%s\n", created.status().ToString().c_str());
      std::exit(1);
    }
    ns = *std::move(created);
  }

  // Bytes are left as they are: what is measured is the store, not memcpy.
  bool Put(const std::string& key, uint64_t size_bytes, bool overwrite = false) {
    PutSpec spec;
    spec.id = {key, fingerprint};
    spec.size_bytes = size_bytes;
    spec.overwrite = overwrite;
    auto reserved = ns->Reserve(spec);
    if (!reserved.ok() || !reserved->has_value()) return false;
    return ns->Commit(**std::move(reserved)).ok();
  }

  MonotonicClock clock;
  const Hash128 fingerprint = Fingerprint().hash();
  Store store;
  std::shared_ptr<Namespace> ns;
};

}  // namespace infercache::store
