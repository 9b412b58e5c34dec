#include "client/src/local_reserve.h"

#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/get_sink.h"
#include "common/limits.h"

namespace infercache {
namespace {

void Abort(LocalConnection& connection, std::span<const uint64_t> reservations) {
  v1::LocalRequest request;
  for (const uint64_t id : reservations) request.mutable_abort()->add_reservations(id);
  if (!reservations.empty()) connection.Tell(request);
}

}  // namespace

LocalRoom::LocalRoom(const void* owner, std::shared_ptr<ArenaChunk> chunk, uint64_t id,
                     const LocalPlace& place, std::unique_ptr<std::byte[]> memory)
    : owner_(owner), chunk_(std::move(chunk)), id_(id), place_(place), memory_(std::move(memory)) {}

LocalRoom::~LocalRoom() {
  if (open_ && !pins()->inherited()) Abort(pins()->connection(), {&id_, 1});
}

void ReserveConversation::Fail(const absl::Status& status) {
  for (size_t i = next_; i < items_.size(); ++i) results[i].status = status;
  next_ = items_.size();
}

bool ReserveConversation::Next(v1::LocalRequest* request) {
  group_.clear();
  size_t bytes = 0;
  for (; next_ < items_.size() && group_.size() < kMaxItemsPerFrame; ++next_) {
    const ReserveItem& item = items_[next_];
    if (absl::Status status = CheckObjectBytes(item.size_bytes); !status.ok()) {
      results[next_].status = std::move(status);
      continue;
    }
    v1::ReserveItem& proto = *request->mutable_reserve()->add_items();
    FillReserveItem(item.key, item.size_bytes, item.info, item.parts, item.overwrite, &proto);
    if (const LocalRight* right = RightOf(item); right != nullptr) proto.set_claim(right->number());
    const size_t item_bytes = proto.ByteSizeLong() + kItemOverhead;
    if (!group_.empty() && bytes + item_bytes > kMaxRequestBytes) {
      request->mutable_reserve()->mutable_items()->RemoveLast();
      break;
    }
    bytes += item_bytes;
    group_.push_back(next_);
  }
  return !group_.empty();
}

// The claim of an item, if it is one of this session.
const LocalRight* ReserveConversation::RightOf(const ReserveItem& item) const {
  if (item.claim == nullptr || !*item.claim) return nullptr;
  const auto* right = dynamic_cast<const LocalRight*>(item.claim->right());
  return right != nullptr && right->pins() == session_->pins() ? right : nullptr;
}

void ReserveConversation::Take(LocalAnswer answer) {
  absl::Status status = answer.status;
  if (status.ok()) status = TakeReserved(answer.response.reserved());
  if (status.ok()) return;
  for (const size_t i : group_) results[i] = {.status = status};
  Fail(status);
}

absl::Status ReserveConversation::TakeReserved(const v1::Reserved& reserved) {
  if (static_cast<size_t>(reserved.items_size()) != group_.size()) {
    std::vector<uint64_t> all;
    for (const v1::ReservedItem& item : reserved.items()) {
      if (item.reservation() != 0) all.push_back(item.reservation());
    }
    Abort(session_->connection(), all);
    return BadAnswer(absl::StrCat(reserved.items_size(), " places for ", group_.size(), " items"));
  }
  for (size_t k = 0; k < group_.size(); ++k) {
    results[group_[k]] = TakeItem(items_[group_[k]], reserved.items(static_cast<int>(k)));
  }
  return absl::OkStatus();
}

ReserveResult ReserveConversation::TakeItem(const ReserveItem& item,
                                            const v1::ReservedItem& reserved) {
  if (reserved.code() != 0) return {.status = SaidByDaemon(reserved.code(), reserved.message())};
  if (reserved.exists()) return {.exists = true};
  const LocalPlace place = {reserved.chunk(), reserved.offset(), item.size_bytes};
  if (!session_->Contains(place) || reserved.reservation() == 0) {
    if (reserved.reservation() != 0) {
      const uint64_t id = reserved.reservation();
      Abort(session_->connection(), {&id, 1});
    }
    return {.status = BadAnswer("room outside of the arena")};
  }
  std::unique_ptr<std::byte[]> memory;
  // None in a GPU, where whoever has the room's place knows what to make of it.
  std::span<std::byte> bytes = session_->WritablePlace(place.chunk, place.offset, place.size_bytes);
  if (session_->put_access() != v1::Welcome::PUT_ACCESS_IN_PLACE) {
    memory.reset(new (std::nothrow) std::byte[item.size_bytes]());
    bytes = {memory.get(), item.size_bytes};
  }
  const bool no_memory = bytes.data() == nullptr && !session_->on_device();
  auto room = std::make_unique<LocalRoom>(owner_, session_->ChunkOf(place), reserved.reservation(),
                                          place, std::move(memory));
  if (no_memory) return {.status = NoMemoryFor(item.size_bytes)};
  // What becomes of the room becomes of the claim: that is the daemon's business from here on.
  if (RightOf(item) != nullptr) item.claim->Fulfilled();
  ReserveResult result;
  result.reservation.emplace(bytes, std::move(room));
  return result;
}

CommitConversation::CommitConversation(const void* owner, std::span<Reservation> reservations,
                                       Done<Results> done)
    : results(reservations.size()), done_(std::move(done)), rooms_(reservations.size()) {
  for (size_t i = 0; i < reservations.size(); ++i) {
    const bool empty = !reservations[i];
    std::unique_ptr<Reservation::Room> room = reservations[i].Release();
    auto* mine = dynamic_cast<LocalRoom*>(room.get());
    if (mine == nullptr || mine->owner() != owner) {
      results[i].status = absl::InvalidArgumentError(empty ? "an empty reservation"
                                                           : "a reservation of another client");
      continue;
    }
    (void)room.release();
    rooms_[i].reset(mine);
  }
}

void CommitConversation::Fail(const absl::Status& status) {
  for (size_t i = 0; i < rooms_.size(); ++i) {
    if (rooms_[i] == nullptr) continue;
    results[i] = {.status = status};
    rooms_[i] = nullptr;
  }
  next_ = rooms_.size();
  group_.clear();
  writes_ = {};
}

void CommitConversation::Deliver() { done_(std::move(results), reached_); }

// The next rooms of one session, in order.
bool CommitConversation::BeginGroup() {
  group_.clear();
  committing_ = false;
  for (; next_ < rooms_.size() && group_.size() < kMaxItemsPerFrame; ++next_) {
    const LocalRoom* room = rooms_[next_].get();
    if (room == nullptr) continue;
    if (group_.empty()) pins_ = room->pins();
    if (room->pins() != pins_) break;
    group_.push_back(next_);
    if (!room->unsent().empty()) writes_.Add(room->id(), room->unsent());
  }
  return !group_.empty();
}

bool CommitConversation::Next(v1::LocalRequest* request) {
  while (true) {
    if ((group_.empty() || committing_) && !BeginGroup()) return false;
    const absl::StatusOr<bool> written = writes_.Next(connection(), request);
    if (written.ok() && *written) return true;
    if (written.ok()) break;
    TakeAnswer({.status = written.status(), .reached = Reached::kNo, .sent = false});
  }
  committing_ = true;
  for (const size_t i : group_) request->mutable_commit()->add_reservations(rooms_[i]->id());
  return true;
}

void CommitConversation::Take(LocalAnswer answer) {
  // Also one that was not answered may have been heard: then the room is not this client's.
  if (committing_ && answer.sent) {
    for (const size_t i : group_) rooms_[i]->Committed();
  }
  absl::Status status = answer.status;
  if (status.ok() && committing_) status = TakeResults(answer.response.put_results());
  if (status.ok()) return;
  // Rooms of another session may fare better.
  for (const size_t i : group_) {
    results[i] = {.status = status};
    rooms_[i] = nullptr;
  }
  writes_ = {};
  group_.clear();
}

absl::Status CommitConversation::TakeResults(const v1::PutResults& answers) {
  if (static_cast<size_t>(answers.results_size()) != group_.size()) {
    return BadAnswer(
        absl::StrCat(answers.results_size(), " results for ", group_.size(), " items"));
  }
  for (size_t k = 0; k < group_.size(); ++k) {
    results[group_[k]] = FromProto(answers.results(static_cast<int>(k)));
    rooms_[group_[k]] = nullptr;
  }
  group_.clear();
  return absl::OkStatus();
}

}  // namespace infercache
