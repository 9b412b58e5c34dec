// Stores one object in chunks.

#pragma once

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "client/src/remote_backend.h"
#include "infercache/client.h"

namespace infercache {

// Reads the item's value until `done` is called, which happens exactly once; the rest of the item
// until this returns. REQUIRES: an Operation lives until then.
void StartPutStream(RemoteBackend& backend, const PutItem& item, absl::Time deadline,
                    absl::AnyInvocable<void(PutResult)> done);

}  // namespace infercache
