#include "client/src/local_puts.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/value_reader.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache {

PutConversation::PutConversation(std::span<const PutItem> items, Done<Results> done)
    : results(items.size()), items_(items), done_(std::move(done)) {
  for (const PutItem& item : items) {
    if (ValueBytes(item) > kMaxInlineBytes) all_small_ = false;
  }
}

void PutConversation::Fail(const absl::Status& status) {
  for (size_t i = next_; i < items_.size(); ++i) results[i] = {.status = status};
  next_ = items_.size();
}

bool PutConversation::Next(v1::LocalRequest* request) {
  if (asked_ == Asked::kReserve || asked_ == Asked::kWritten) {
    const absl::StatusOr<bool> written = writes_.Next(session_->connection(), request);
    if (!written.ok()) {
      TakeAnswer({.status = written.status(), .reached = Reached::kNo, .sent = false});
      return false;
    }
    if (*written) {
      asked_ = Asked::kWritten;
      return true;
    }
    if (!reserved_.empty()) {
      asked_ = Asked::kCommit;
      for (const uint64_t id : reservations_) request->mutable_commit()->add_reservations(id);
      return true;
    }
  }
  group_.clear();
  gathered_.clear();
  if (next_ == items_.size()) return false;
  if (all_small_) {
    asked_ = Asked::kInline;
    MakeInline(request->mutable_put_inline());
  } else {
    asked_ = Asked::kReserve;
    MakeReserve(request->mutable_reserve());
  }
  // All that were left were refused right here.
  return !group_.empty();
}

void PutConversation::MakeInline(v1::PutInline* request) {
  size_t bytes = 0;
  for (; next_ < items_.size() && group_.size() < kMaxItemsPerFrame; ++next_) {
    const PutItem& item = items_[next_];
    const uint64_t size = ValueBytes(item);
    if (absl::Status status = CheckObjectBytes(size); !status.ok()) {
      results[next_].status = std::move(status);
      continue;
    }
    v1::PutInlineItem& proto = *request->add_items();
    FillReserveItem(item.key, size, item.info, item.parts, item.overwrite, proto.mutable_object());
    const size_t item_bytes = proto.object().ByteSizeLong() + size + 2 * kItemOverhead;
    if (!group_.empty() && bytes + item_bytes > kMaxRequestBytes) {
      request->mutable_items()->RemoveLast();
      return;
    }
    proto.mutable_value()->resize(size);
    ValueReader(item.value).Read(std::as_writable_bytes(std::span(*proto.mutable_value())));
    bytes += item_bytes;
    group_.push_back(next_);
  }
}

void PutConversation::MakeReserve(v1::Reserve* request) {
  size_t bytes = 0;
  uint64_t value_bytes = 0;
  for (; next_ < items_.size() && group_.size() < kMaxItemsPerFrame; ++next_) {
    const PutItem& item = items_[next_];
    const uint64_t size = ValueBytes(item);
    if (absl::Status status = CheckObjectBytes(size); !status.ok()) {
      results[next_].status = std::move(status);
      continue;
    }
    v1::ReserveItem& proto = *request->add_items();
    FillReserveItem(item.key, size, item.info, item.parts, item.overwrite, &proto);
    const size_t item_bytes = proto.ByteSizeLong() + kItemOverhead;
    if (!group_.empty() && (bytes + item_bytes > kMaxRequestBytes ||
                            value_bytes + size > session_->pins()->budget_bytes())) {
      request->mutable_items()->RemoveLast();
      return;
    }
    bytes += item_bytes;
    value_bytes += size;
    group_.push_back(next_);
  }
}

void PutConversation::Take(LocalAnswer answer) {
  absl::Status status = answer.status;
  if (status.ok()) {
    switch (asked_) {
      case Asked::kInline:
        status = TakeResults(answer.response.put_results(), group_);
        break;
      case Asked::kReserve:
        status = TakeReserved(answer.response.reserved());
        break;
      case Asked::kCommit:
        status = TakeResults(answer.response.put_results(), reserved_);
        reserved_.clear();
        reservations_.clear();
        asked_ = Asked::kNothing;
        break;
      case Asked::kWritten:
      case Asked::kNothing:
        break;
    }
  }
  if (status.ok()) return;
  // A Commit that was not answered may have been heard: then the room is not this client's.
  if (asked_ != Asked::kCommit || !answer.sent) AbortReserved();
  for (const size_t i : asked_ == Asked::kInline ? group_ : reserved_) {
    results[i] = {.status = status};
  }
  if (asked_ == Asked::kReserve) {
    for (const size_t i : group_) {
      if (results[i].outcome == PutOutcome::kRefused && results[i].status.ok()) {
        results[i].status = status;
      }
    }
  }
  reserved_.clear();
  reservations_.clear();
  writes_ = {};
  asked_ = Asked::kNothing;
  // What refuses one request as a whole, or keeps its answer from coming, does so with the next.
  Fail(status);
}

absl::Status PutConversation::TakeReserved(const v1::Reserved& reserved) {
  // All of it is this client's to give back, whatever is wrong with some.
  for (const v1::ReservedItem& item : reserved.items()) {
    if (item.reservation() != 0) reservations_.push_back(item.reservation());
  }
  if (static_cast<size_t>(reserved.items_size()) != group_.size()) {
    return BadAnswer(absl::StrCat(reserved.items_size(), " places for ", group_.size(), " items"));
  }
  for (size_t k = 0; k < group_.size(); ++k) {
    const v1::ReservedItem& item = reserved.items(static_cast<int>(k));
    PutResult& result = results[group_[k]];
    if (item.code() != 0) {
      result.status = SaidByDaemon(item.code(), item.message());
    } else if (item.exists()) {
      result.outcome = PutOutcome::kExists;
    } else {
      RETURN_IF_ERROR(Fill(group_[k], item));
      reserved_.push_back(group_[k]);
    }
  }
  if (reserved_.size() != reservations_.size()) return BadAnswer("room for what has none");
  return absl::OkStatus();
}

absl::Status PutConversation::Fill(size_t index, const v1::ReservedItem& item) {
  ValueReader value(items_[index].value);
  const uint64_t size = value.remaining();
  const bool in_place = session_->put_access() == v1::Welcome::PUT_ACCESS_IN_PLACE;
  const std::span<std::byte> place = session_->WritablePlace(item.chunk(), item.offset(), size);
  if (item.reservation() == 0 || (in_place && place.size() != size)) {
    return BadAnswer("room outside of the arena");
  }
  if (in_place) {
    value.ReadToArena(place);
  } else if (items_[index].value.size() == 1) {
    writes_.Add(item.reservation(), items_[index].value[0]);
  } else {
    std::vector<std::byte>& bytes = gathered_.emplace_back(size);
    value.Read(bytes);
    writes_.Add(item.reservation(), bytes);
  }
  return absl::OkStatus();
}

absl::Status PutConversation::TakeResults(const v1::PutResults& answers,
                                          std::span<const size_t> indices) {
  if (static_cast<size_t>(answers.results_size()) != indices.size()) {
    return BadAnswer(
        absl::StrCat(answers.results_size(), " results for ", indices.size(), " items"));
  }
  for (size_t k = 0; k < indices.size(); ++k) {
    results[indices[k]] = FromProto(answers.results(static_cast<int>(k)));
  }
  return absl::OkStatus();
}

void PutConversation::AbortReserved() {
  if (reservations_.empty()) return;
  v1::LocalRequest request;
  for (const uint64_t id : reservations_) request.mutable_abort()->add_reservations(id);
  session_->connection().Tell(request);
}

}  // namespace infercache
