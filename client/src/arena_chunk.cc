#include "client/src/arena_chunk.h"

#include "common/status_macros.h"

namespace infercache {

bool ArenaChunk::IsRegistered(Register try_it) {
  MutexLock lock(&mu_);
  if (!std::exchange(tried_, true)) {
    if (auto registered = try_it(readable_); registered.ok()) registered_ = *std::move(registered);
  }
  return registered_ != nullptr;
}

void DeviceArena::Add(std::weak_ptr<ArenaChunk> chunk, UniqueFd fd) {
  MutexLock lock(&mu_);
  left_.push_back({std::move(chunk), std::move(fd)});
}

absl::StatusOr<size_t> DeviceArena::Use(Import import) {
  struct Imported {
    std::shared_ptr<ArenaChunk> chunk;
    std::unique_ptr<DeviceChunk> memory;
  };
  std::vector<Imported> imported;  // what goes with it goes without the lock
  MutexLock lock(&mu_);
  for (const NotImported& one : left_) {
    std::shared_ptr<ArenaChunk> chunk = one.chunk.lock();
    if (chunk == nullptr) continue;  // gone with its session
    ASSIGN_OR_RETURN(std::unique_ptr<DeviceChunk> memory, import(one.fd, chunk_bytes_));
    imported.push_back({std::move(chunk), std::move(memory)});
  }
  for (Imported& one : imported) one.chunk->on_device_ = std::move(one.memory);
  left_.clear();
  return imported.size();
}

}  // namespace infercache
