#include "client/src/remote_reserve.h"

#include <memory>
#include <new>
#include <string>
#include <utility>

#include "client/src/get_sink.h"
#include "client/src/remote_put.h"

namespace infercache {
namespace {

class RemoteRoom final : public Reservation::Room {
 public:
  RemoteRoom(const void* owner, const ReserveItem& item, std::unique_ptr<std::byte[]> memory)
      : owner_(owner), key_(item.key), item_(item), memory_(std::move(memory)) {
    if (item.claim != nullptr) claim_ = std::move(*item.claim);
  }

  const void* owner() const { return owner_; }
  void Committed() { claim_.Fulfilled(); }
  // Borrows from the room.
  PutItem ToPutItem() const {
    return {.key = key_,
            .info = item_.info,
            .parts = item_.parts,
            .value = {std::span<const std::byte>(memory_.get(), item_.size_bytes)},
            .overwrite = item_.overwrite};
  }

 private:
  const void* const owner_;
  const std::string key_;
  const ReserveItem item_;  // its key is gone
  const std::unique_ptr<std::byte[]> memory_;
  Claim claim_;  // given up with the room, unless that is committed
};

}  // namespace

std::vector<ReserveResult> ReserveRemotely(const void* owner, std::span<const ReserveItem> items) {
  std::vector<ReserveResult> results(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const uint64_t size = items[i].size_bytes;
    if (size == 0) {
      results[i].status =
          absl::InvalidArgumentError("value: empty; an object has at least one byte");
      continue;
    }
    std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[size]());
    if (memory == nullptr) {
      results[i].status = NoMemoryFor(size);
      continue;
    }
    const std::span<std::byte> bytes(memory.get(), size);
    results[i].reservation.emplace(
        bytes, std::make_unique<RemoteRoom>(owner, items[i], std::move(memory)));
  }
  return results;
}

void StartRemoteCommit(const void* owner, RemoteBackend& backend,
                       std::span<Reservation> reservations, absl::Time deadline,
                       Done<std::vector<PutResult>> done) {
  std::vector<PutResult> results(reservations.size());
  std::vector<std::unique_ptr<Reservation::Room>> rooms;
  std::vector<size_t> indices;
  std::vector<PutItem> items;
  for (size_t i = 0; i < reservations.size(); ++i) {
    const bool empty = !reservations[i];
    std::unique_ptr<Reservation::Room> room = reservations[i].Release();
    const auto* mine = dynamic_cast<const RemoteRoom*>(room.get());
    if (mine == nullptr || mine->owner() != owner) {
      results[i].status = absl::InvalidArgumentError(empty ? "an empty reservation"
                                                           : "a reservation of another client");
      continue;
    }
    items.push_back(mine->ToPutItem());
    indices.push_back(i);
    rooms.push_back(std::move(room));
  }
  if (items.empty()) return done(std::move(results), Reached::kNotAsked);
  StartRemotePut(
      backend, items, deadline,
      [rooms = std::move(rooms), indices = std::move(indices), results = std::move(results),
       done = std::move(done)](std::vector<PutResult> put, Reached reached) mutable {
        for (size_t k = 0; k < put.size(); ++k) {
          if (put[k].status.ok()) static_cast<RemoteRoom&>(*rooms[k]).Committed();
          results[indices[k]] = std::move(put[k]);
        }
        done(std::move(results), reached);
      });
}

}  // namespace infercache
