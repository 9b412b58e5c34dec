#include "client/src/local_reads.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/get_sink.h"
#include "client/src/local_object.h"
#include "client/src/results.h"

namespace infercache {

using Settled = LocalReader::Settled;

bool ReadConversation::Next(v1::LocalRequest* request) {
  if (!read_) {
    const uint32_t lacking = asked_for_slots_ || views() == 0 ? 0 : reader_.SlotsLacking(views());
    if (lacking > 0) {
      asked_for_slots_ = true;
      const PinSlots& slots = session_->slots();
      request->mutable_grow_slots()->set_slots(std::min(slots.capacity(), slots.limit() + lacking));
      return true;
    }
    read_ = true;
    if (Read(&left_) == Settled::kNoSession) {
      reached_ = Reached::kNo;
      Fail(absl::UnavailableError("the session with infercached is over"));
      left_.clear();
    }
    std::reverse(left_.begin(), left_.end());
  }
  if (left_.empty()) return false;
  const std::string_view key = keys_[left_.back()];
  request->mutable_lookup()->add_keys(key.data(), key.size());
  return true;
}

void ReadConversation::Take(LocalAnswer answer) {
  if (!read_) {
    // Without them some of the views become copies.
    if (answer.status.ok()) {
      session_->pins()->SlotsGranted(answer.response.slots_granted().slot_limit());
    } else if (answer.reached == Reached::kNotInTime) {
      session_->pins()->SlotsGranted(0);
    }
    return;
  }
  const size_t index = left_.back();
  left_.pop_back();
  if (answer.status.ok()) return TakeFound(index, answer.response.found());
  FailOne(index, answer.status);
  if (answer.reached == Reached::kYes) return;
  for (const size_t other : std::exchange(left_, {})) FailOne(other, answer.status);
}

void ReadConversation::TakeFound(size_t index, const v1::Found& found) {
  if (found.items_size() != 1) {
    return FailOne(index, BadAnswer(absl::StrCat(found.items_size(), " items for one key")));
  }
  const v1::FoundItem& item = found.items(0);
  if (item.lease() == 0) return;
  bool kept = false;
  absl::StatusOr<ObjectDescription> description = FromProto(item.object());
  if (!description.ok()) {
    FailOne(index, BadAnswer(description.status().message()));
  } else {
    const LocalPlace place = {item.chunk(), item.offset(), description->size_bytes};
    if (!session_->Contains(place)) {
      FailOne(index, BadAnswer("a place outside of the arena"));
    } else {
      const auto bytes = session_->Place(place.chunk, place.offset, place.size_bytes);
      kept = Found(index, item, *std::move(description), bytes);
    }
  }
  if (kept) return;
  v1::LocalRequest request;
  request.mutable_release()->add_leases(item.lease());
  session_->connection().Tell(request);
}

void GetConversation::Fail(const absl::Status& status) {
  for (GetResult& result : results) result = {.status = status};
}

void GetConversation::FailOne(size_t index, const absl::Status& status) {
  results[index] = {.status = status};
}

Settled GetConversation::Read(std::vector<size_t>* left) {
  return reader_.Get(keys_, copies_, results, left);
}

bool GetConversation::Found(size_t index, const v1::FoundItem& item, ObjectDescription description,
                            std::span<const std::byte> bytes) {
  GetResult& result = results[index];
  const LocalPlace place = {item.chunk(), item.offset(), description.size_bytes};
  if (session_->pins()->TakeBudget(place.size_bytes)) {
    result.object.emplace(bytes, std::move(description.parts), std::move(description.info),
                          HoldLease(session_->ChunkOf(place), item.lease(), place));
    return true;
  }
  if (copies_ == LocalReader::Copies::kRefused || session_->on_device()) {
    result.status = absl::ResourceExhaustedError(absl::StrCat(
        "a view of ", place.size_bytes, " bytes would exceed what this client may hold"));
    return false;
  }
  std::unique_ptr<std::byte[]> copy(new (std::nothrow) std::byte[bytes.size()]);
  if (copy == nullptr) {
    result.status = NoMemoryFor(bytes.size());
    return false;
  }
  if (!bytes.empty()) std::memcpy(copy.get(), bytes.data(), bytes.size());
  if (session_->RevokedMeanwhile()) return false;
  result.object.emplace(HeapObject(std::move(copy), bytes.size(), std::move(description.parts),
                                   std::move(description.info)));
  return false;
}

void GetIntoConversation::Fail(const absl::Status& status) {
  for (GetIntoResult& result : results) result = {.status = status};
}

void GetIntoConversation::FailOne(size_t index, const absl::Status& status) {
  results[index] = {.status = status};
}

Settled GetIntoConversation::Read(std::vector<size_t>* left) {
  return reader_.GetInto(keys_, destinations_, results, left);
}

bool GetIntoConversation::Found(size_t index, const v1::FoundItem&, ObjectDescription,
                                std::span<const std::byte> bytes) {
  GetIntoResult& result = results[index];
  result.size_bytes = bytes.size();
  if (bytes.size() > destinations_[index].size()) {
    result.status = TooLarge(bytes.size(), destinations_[index].size());
    return false;
  }
  if (!bytes.empty()) std::memcpy(destinations_[index].data(), bytes.data(), bytes.size());
  result.hit = !session_->RevokedMeanwhile();
  return false;
}

Settled MatchConversation::Read(std::vector<size_t>* left) {
  result_ = {.present = std::vector<bool>(keys_.size()),
             .size_bytes = std::vector<uint64_t>(keys_.size())};
  return reader_.Match(keys_, touch_, &result_.present, &result_.size_bytes, left);
}

bool MatchConversation::Found(size_t index, const v1::FoundItem&, ObjectDescription description,
                              std::span<const std::byte>) {
  if (!result_.status.ok()) return false;
  result_.present[index] = true;
  result_.size_bytes[index] = description.size_bytes;
  return false;
}

MatchResult MatchConversation::TakeResult() {
  result_.prefix_length = static_cast<size_t>(
      std::find(result_.present.begin(), result_.present.end(), false) - result_.present.begin());
  return std::move(result_);
}

}  // namespace infercache
