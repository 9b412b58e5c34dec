// The part of the configuration that the store gets. Pure functions.

#pragma once

#include "server/config.h"
#include "server/store/store.h"

namespace infercache::server {

// REQUIRES: `config` was checked.
store::StoreOptions MakeStoreOptions(const Config& config);
store::NamespaceSpec MakeNamespaceSpec(const NamespaceConfig& config);
store::LocalAccess ToAccess(const LocalPeers& peers);

}  // namespace infercache::server
