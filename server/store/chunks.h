// The memory of an arena: chunks of one size, of which clients map what they are given. Where the
// CPU has no address of it, as in a GPU, the daemon can hand it out but not touch it.
//
// Constant after construction; thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/memory_segment.h"
#include "common/unique_fd.h"

namespace infercache::store {

class Chunks {
 public:
  virtual ~Chunks() = default;
  Chunks() = default;
  Chunks(const Chunks&) = delete;
  Chunks& operator=(const Chunks&) = delete;

  // All bytes of a chunk; empty if it is no memory of the CPU.
  virtual std::span<std::byte> bytes(uint32_t chunk) const = 0;
  // A descriptor through which others can map it; for writing only if `writable`, as far as the
  // memory knows the difference. Errors name the call that failed.
  virtual absl::StatusOr<UniqueFd> Open(uint32_t chunk, bool writable) const = 0;
};

// How a host arena's memory is made.
struct HostMemory {
  PageKind pages = PageKind::k4k;
  bool locked = false;
  bool writable_by_clients = true;
  Populating populating = {};
};

// Maps and populates `count` chunks. RESOURCE_EXHAUSTED: they do not fit into memory. INTERNAL
// names the system call. UNAVAILABLE: it was stopped.
absl::StatusOr<std::unique_ptr<Chunks>> MakeHostChunks(const std::string& name, uint64_t count,
                                                       uint64_t chunk_bytes,
                                                       const HostMemory& memory);

}  // namespace infercache::store
