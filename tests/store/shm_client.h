// A client of the shared index, in this process: what a worker does over its mappings, done over
// the daemon's own. One page, one thread.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "common/fingerprint.h"
#include "common/shm/reader.h"
#include "server/store/namespace.h"

namespace infercache::store {

class ShmClient {
 public:
  explicit ShmClient(std::shared_ptr<Namespace> ns, uint32_t slots = 64)
      : namespace_(std::move(ns)),
        index_(namespace_->index_memory()),
        chunks_(namespace_->arena_chunks()),
        memory_(new (std::align_val_t{64}) std::byte[shm::SessionPage::BytesFor(slots)]),
        daemons_view_(
            shm::SessionPage::Format({memory_.get(), shm::SessionPage::BytesFor(slots)}, slots)),
        page_(daemons_view_) {
    page_.RaiseSlotsInUse(slots);
    namespace_->AttachPage(&daemons_view_);
    attached_ = true;
  }
  ~ShmClient() { Die(); }
  ShmClient(const ShmClient&) = delete;
  ShmClient& operator=(const ShmClient&) = delete;

  // What the daemon does when the session is over, whatever its slots say.
  void Die() {
    if (attached_) namespace_->DetachPage(&daemons_view_);
    attached_ = false;
  }

  template <class Protocol = shm::PinProtocol>
  shm::FindResult Find(std::string_view key, uint64_t now_ms, uint32_t slot = 0,
                       const Hash128& fingerprint = Fingerprint().hash()) const {
    const Hash128 hash = HashKey(index_.header().hash_seed, fingerprint, key);
    return shm::FindAndPin<Protocol>(index_, hash, key, now_ms, page_.slot(slot));
  }
  void Unpin(uint32_t slot = 0) const { shm::Unpin(page_.slot(slot)); }

  // REQUIRES: `found` is pinned.
  std::span<const std::byte> Bytes(const shm::FindResult& found) const {
    return chunks_[found.record->segment()].subspan(found.record->offset(), found.record->size());
  }

  const shm::IndexView& index() const { return index_; }
  shm::SessionPage& page() { return page_; }
  std::span<std::byte> page_memory() {
    return {memory_.get(), shm::SessionPage::BytesFor(page_.slot_capacity())};
  }

 private:
  struct AlignedDelete {
    void operator()(std::byte* memory) const { operator delete[](memory, std::align_val_t{64}); }
  };

  const std::shared_ptr<Namespace> namespace_;
  const shm::IndexView index_;
  const std::vector<std::span<std::byte>> chunks_;
  const std::unique_ptr<std::byte[], AlignedDelete> memory_;
  shm::SessionPage daemons_view_;
  shm::SessionPage page_;
  bool attached_ = false;
};

}  // namespace infercache::store
