// What this process lends by legacy handles, for its other clients: CUDA opens no handle in the
// process that made it, nor is there a need to.
//
// By the handle's bytes, which name nothing of another process's: whoever sends them to this one
// shows it memory of its own.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "client/src/fork_guard.h"
#include "common/cuda/ipc.h"

namespace infercache {

// Thread-safe.
class OwnExport {
 public:
  // Found from here on, until it is destroyed.
  OwnExport(std::string_view handle, const cuda::AddressRange& range);
  ~OwnExport();
  OwnExport(const OwnExport&) = delete;
  OwnExport& operator=(const OwnExport&) = delete;

  // What the handle was made of last in this process, if it was and is still lent.
  static std::optional<cuda::AddressRange> Find(std::string_view handle);

 private:
  const ForkGuard guard_;
  const std::string handle_;
  const cuda::AddressRange range_;
};

}  // namespace infercache
