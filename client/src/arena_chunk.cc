#include "client/src/arena_chunk.h"

#include "common/status_macros.h"

namespace infercache {

void DeviceArena::Add(std::weak_ptr<ArenaChunk> chunk, UniqueFd fd) {
  MutexLock lock(&mu_);
  left_.push_back({std::move(chunk), std::move(fd)});
}

absl::StatusOr<size_t> DeviceArena::Use(Import import) {
  MutexLock lock(&mu_);
  std::vector<std::unique_ptr<DeviceChunk>> imported;
  for (const NotImported& one : left_) {
    ASSIGN_OR_RETURN(imported.emplace_back(), import(one.fd, chunk_bytes_));
  }
  // A chunk may have gone with its session: its memory goes with `imported`.
  for (size_t i = 0; i < imported.size(); ++i) {
    const std::shared_ptr<ArenaChunk> chunk = left_[i].chunk.lock();
    if (chunk != nullptr) chunk->on_device_ = std::move(imported[i]);
  }
  left_.clear();
  return imported.size();
}

}  // namespace infercache
