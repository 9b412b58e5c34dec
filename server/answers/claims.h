// Single flight on the wire: the store's answers and events as messages.

#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "infercache/v1/types.pb.h"
#include "server/store/claims.h"
#include "server/store/namespace.h"

namespace infercache {

// What the store is asked for; a claim_ms of 0 stands for the default. INVALID_ARGUMENT names the
// time that is over its limit.
absl::StatusOr<store::Claims::Request> ToClaimRequest(uint64_t wait_ms, uint64_t claim_ms);

void SetAnswer(const absl::StatusOr<store::Namespace::GetOrReserved>& result, uint64_t claim_ms,
               v1::ClaimAnswer* answer);
void SetAnswer(const store::ClaimEvent& event, v1::ClaimAnswer* answer);

}  // namespace infercache
