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
        daemons_page_(*ClientPage::Create(slots)),
        page_(daemons_page_->memory(), daemons_page_->slot_capacity()) {
    page_.RaiseSlotsInUse(slots);
    namespace_->AttachPage(daemons_page_);
  }
  ~ShmClient() { Die(); }
  ShmClient(const ShmClient&) = delete;
  ShmClient& operator=(const ShmClient&) = delete;

  // What the daemon does when the session is over, whatever its slots say.
  void Die() { namespace_->DetachPage(daemons_page_); }

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
  const std::shared_ptr<ClientPage>& daemons_page() { return daemons_page_; }

 private:
  const std::shared_ptr<Namespace> namespace_;
  const shm::IndexView index_;
  const std::vector<std::span<std::byte>> chunks_;
  const std::shared_ptr<ClientPage> daemons_page_;
  shm::SessionPage page_;
};

}  // namespace infercache::store
