// Stores one object in chunks.

#pragma once

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "client/src/remote_backend.h"
#include "infercache/client.h"

namespace infercache {

// `ends_request`: it is the last block of a batch. Reads the item's value until `done` is called,
// which happens exactly once; the rest of the item until this returns. REQUIRES: an Operation lives
// until then.
void StartPutStream(RemoteBackend& backend, const PutItem& item, bool ends_request,
                    absl::Time deadline, absl::AnyInvocable<void(PutResult)> done);

}  // namespace infercache
