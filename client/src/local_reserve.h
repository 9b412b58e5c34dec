// Reserve and Commit as conversations, and the room between them.

#pragma once

#include <memory>
#include <span>
#include <vector>

#include "client/src/local_conversation.h"
#include "client/src/local_flight.h"
#include "client/src/local_writes.h"

namespace infercache {

// Room of one reservation. Aborts it when it is destroyed, unless it was committed.
class LocalRoom final : public Reservation::Room {
 public:
  // `owner` names the client; `place` is in `chunk`. `memory` is null if the room is in the arena
  // itself.
  LocalRoom(const void* owner, std::shared_ptr<ArenaChunk> chunk, uint64_t id,
            const LocalPlace& place, std::unique_ptr<std::byte[]> memory);
  ~LocalRoom() override;

  const void* owner() const { return owner_; }
  ArenaChunk& chunk() const { return *chunk_; }
  const std::shared_ptr<SessionPins>& pins() const { return chunk_->pins(); }
  uint64_t id() const { return id_; }
  const LocalPlace& place() const { return place_; }
  // What is to be sent before the commit; empty if it is in place.
  std::span<const std::byte> unsent() const {
    return {memory_.get(), memory_ ? place_.size_bytes : 0};
  }
  // The daemon was told to commit it, or may have been.
  void Committed() { open_ = false; }

 private:
  const void* const owner_;
  const std::shared_ptr<ArenaChunk> chunk_;
  const uint64_t id_;
  const LocalPlace place_;
  const std::unique_ptr<std::byte[]> memory_;
  bool open_ = true;
};

class ReserveConversation : public Conversation {
 public:
  using Results = std::vector<ReserveResult>;

  // `items` outlive the conversation.
  ReserveConversation(const void* owner, std::span<const ReserveItem> items, Done<Results> done)
      : results(items.size()), owner_(owner), items_(items), done_(std::move(done)) {}

  bool Next(v1::LocalRequest* request) override;
  void Deliver() override { done_(std::move(results), reached_); }

  Results results;

 protected:
  void Fail(const absl::Status& status) override;
  void Take(LocalAnswer answer) override;

 private:
  absl::Status TakeReserved(const v1::Reserved& reserved);
  const LocalRight* RightOf(const ReserveItem& item) const;
  ReserveResult TakeItem(const ReserveItem& item, const v1::ReservedItem& reserved);

  const void* const owner_;
  const std::span<const ReserveItem> items_;
  Done<Results> done_;
  size_t next_ = 0;  // the first item that was not asked for
  std::vector<size_t> group_;
};

class CommitConversation final : public Conversation {
 public:
  using Results = std::vector<PutResult>;

  // Takes the rooms of `reservations`.
  CommitConversation(const void* owner, std::span<Reservation> reservations, Done<Results> done);

  // Each reservation brings its own.
  bool NeedsSession() const override { return false; }
  LocalConnection& connection() const override { return pins_->connection(); }
  bool Next(v1::LocalRequest* request) override;
  void Deliver() override;

  Results results;

 protected:
  void Fail(const absl::Status& status) override;
  void Take(LocalAnswer answer) override;

 private:
  bool BeginGroup();
  absl::Status TakeResults(const v1::PutResults& answers);

  Done<Results> done_;
  std::vector<std::unique_ptr<LocalRoom>> rooms_;  // null: answered, or none
  size_t next_ = 0;                                // the first room that was not looked at
  std::vector<size_t> group_;                      // indices, of one session
  std::shared_ptr<SessionPins> pins_;              // whose they are
  WriteQueue writes_;
  bool committing_ = false;
};

}  // namespace infercache
