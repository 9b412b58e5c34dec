// What infercache.v1.Admin says of what was counted.

#pragma once

#include "infercache/v1/admin.pb.h"
#include "server/rpc/rpc_server.h"
#include "server/store/namespace.h"

namespace infercache::rpc {

void SetTier(const store::DeviceTier& tier, v1::TierSpec* out);
void SetLocalLane(const LocalLaneStats& stats, v1::LocalLaneStats* out);
// Of the namespace, and of its tiers in GPUs.
void SetStats(const store::Namespace& ns, const LocalLane& local, v1::NamespaceStats* out);

}  // namespace infercache::rpc
