// Put as a conversation. A batch of small values is one PutInline; any other is Reserve, a copy
// into place by whoever waits, Commit. Larger batches are cut at the frame's limits, and so that
// what is reserved at a time leaves the namespace room.

#pragma once

#include <span>
#include <vector>

#include "client/src/local_conversation.h"
#include "client/src/local_writes.h"

namespace infercache {

class PutConversation : public Conversation {
 public:
  using Results = std::vector<PutResult>;

  // `items` outlive the conversation, and what they point to does until it is over.
  PutConversation(std::span<const PutItem> items, Done<Results> done);

  bool Next(v1::LocalRequest* request) override;
  void Deliver() override { done_(std::move(results), reached_); }

  Results results;

 protected:
  void Fail(const absl::Status& status) override;
  void Take(LocalAnswer answer) override;

 private:
  enum class Asked { kNothing, kInline, kReserve, kWritten, kCommit };

  void MakeInline(v1::PutInline* request);
  void MakeReserve(v1::Reserve* request);
  absl::Status TakeReserved(const v1::Reserved& reserved);
  absl::Status Fill(size_t index, const v1::ReservedItem& item);
  absl::Status TakeResults(const v1::PutResults& answers, std::span<const size_t> indices);
  // Room that will not be committed.
  void AbortReserved();

  const std::span<const PutItem> items_;
  Done<Results> done_;
  bool all_small_ = true;

  size_t next_ = 0;  // the first item that was not asked for
  Asked asked_ = Asked::kNothing;
  std::vector<size_t> group_;     // indices in the request under way
  std::vector<size_t> reserved_;  // indices that have room, and their reservations
  std::vector<uint64_t> reservations_;
  WriteQueue writes_;
  std::vector<std::vector<std::byte>> gathered_;  // values in writes_, in one piece
};

}  // namespace infercache
