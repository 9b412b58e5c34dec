#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"
#include "server/answers/listing.h"
#include "server/local/session.h"

namespace infercache::local {
namespace {

using Keys = google::protobuf::RepeatedPtrField<std::string>;

// What an answer's items may take, leaving room for what is around them.
constexpr size_t kMaxAnswerBytes = kMaxFrameBytes - 4096;

absl::Status CheckKeys(const Keys& keys) {
  for (int i = 0; i < keys.size(); ++i) {
    if (!keys[i].empty() && keys[i].size() <= kMaxKeyBytes) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("keys[", i, "]: ", keys[i].size(), " bytes; a key has 1 to ", kMaxKeyBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Session::Handle(const v1::LocalRequest& request, UniqueFd received,
                             v1::LocalResponse* response, std::vector<UniqueFd>* descriptors,
                             Batch* batch) {
  switch (request.body_case()) {
    case v1::LocalRequest::kMapChunks:
      return MapChunks(request.map_chunks(), response->mutable_chunks(), descriptors);
    case v1::LocalRequest::kReserve:
      return puts_.Reserve(request.reserve(), response->mutable_reserved(), batch);
    case v1::LocalRequest::kCommit:
      return puts_.Commit(request.commit(), response->mutable_put_results(), batch);
    case v1::LocalRequest::kAbort:
      response->mutable_empty();
      return puts_.Abort(request.abort());
    case v1::LocalRequest::kPutInline:
      return puts_.PutInline(request.put_inline(), response->mutable_put_results());
    case v1::LocalRequest::kWrite:
      response->mutable_empty();
      puts_.Write(request.write());
      return absl::OkStatus();
    case v1::LocalRequest::kLookup:
      return Lookup(request.lookup(), response->mutable_found(), batch);
    case v1::LocalRequest::kRelease:
      response->mutable_empty();
      return Release(request.release());
    case v1::LocalRequest::kRemove:
      return Remove(request.remove(), response->mutable_removed(), batch);
    case v1::LocalRequest::kGrowSlots:
      return GrowSlots(request.grow_slots(), response->mutable_slots_granted());
    case v1::LocalRequest::kGetOrReserve:
      return GetOrReserve(request.id(), request.get_or_reserve(),
                          response->mutable_claim_answers());
    case v1::LocalRequest::kGiveUp:
      response->mutable_empty();
      flights_.GiveUp(request.give_up());
      return absl::OkStatus();
    case v1::LocalRequest::kLend:
      return loans_.Lend(request.lend(), std::move(received), response->mutable_lent());
    case v1::LocalRequest::kTakeBack:
      RETURN_IF_ERROR(CheckKeys(request.take_back().keys()));
      return loans_.TakeBack(request.take_back(), response->mutable_taken_back());
    case v1::LocalRequest::kBorrow:
      RETURN_IF_ERROR(CheckKeys(request.borrow().keys()));
      return loans_.Borrow(request.borrow(), response->mutable_borrowed());
    case v1::LocalRequest::kMapLent:
      return loans_.MapLent(request.map_lent(), response->mutable_lent_memory(), descriptors);
    case v1::LocalRequest::kReturnLent:
      response->mutable_empty();
      loans_.ReturnLent(request.return_lent());
      return absl::OkStatus();
    case v1::LocalRequest::kDrain:
    case v1::LocalRequest::kPing:
      response->mutable_empty();
      return absl::OkStatus();
    case v1::LocalRequest::kListKeys:
    case v1::LocalRequest::kHello:
    case v1::LocalRequest::BODY_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("not a request");
}

absl::Status Session::GetOrReserve(uint64_t id, const v1::GetOrReserve& request,
                                   v1::ClaimAnswers* response) {
  RETURN_IF_ERROR(host_.CheckTakesWork());
  RETURN_IF_ERROR(CheckKeys(request.keys()));
  return flights_.GetOrReserve(id, request, response);
}

absl::Status Session::MapChunks(const v1::MapChunks& request, v1::Chunks* response,
                                std::vector<UniqueFd>* descriptors) {
  const uint64_t chunks = namespace_->chunk_count();
  response->set_first(request.first());
  if (request.first() >= chunks) return absl::OkStatus();
  const uint64_t count = std::min<uint64_t>(chunks - request.first(), kMaxFrameDescriptors);
  if (chunks_sent_ + count > chunks * kMaxSendsPerChunk) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the session was sent ", chunks_sent_, " descriptors for ", chunks,
                     " chunks; the limit is ", kMaxSendsPerChunk, " for each"));
  }
  const bool writable = puts_.access() == v1::Welcome::PUT_ACCESS_IN_PLACE;
  for (uint64_t i = 0; i < count; ++i) {
    const auto chunk = static_cast<uint32_t>(request.first() + i);
    ASSIGN_OR_RETURN(UniqueFd fd, namespace_->OpenChunk(chunk, writable));
    descriptors->push_back(std::move(fd));
  }
  chunks_sent_ += count;
  response->set_count(static_cast<uint32_t>(count));
  return absl::OkStatus();
}

absl::Status Session::Lease(std::string_view key, bool touch, std::vector<uint64_t>* taken,
                            v1::FoundItem* item) {
  std::optional<store::ReadLease> lease = namespace_->Lookup(Id(key), touch);
  if (!lease) return absl::OkStatus();
  const uint64_t size = lease->size_bytes();
  if (leases_.size() >= kMaxLeasesPerSession) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the session holds ", kMaxLeasesPerSession, " leases, which is the limit"));
  }
  if (!leases_.empty() && leased_bytes_ + size > pin_budget_bytes()) {
    return absl::ResourceExhaustedError(absl::StrCat("the session holds leases of ", leased_bytes_,
                                                     " bytes and asks for ", size,
                                                     " more; its budget is ", pin_budget_bytes()));
  }
  const store::Place place = lease->place();
  item->set_lease(next_lease_);
  item->set_chunk(place.chunk);
  item->set_offset(place.offset);
  Describe(lease->info(), size, lease->parts(), item->mutable_object());
  leased_bytes_ += size;
  taken->push_back(next_lease_);
  leases_.emplace_hint(leases_.end(), next_lease_++, *std::move(lease));
  return absl::OkStatus();
}

absl::Status Session::Lookup(const v1::Lookup& request, v1::Found* response, Batch* batch) {
  if (batch->begins()) {
    RETURN_IF_ERROR(CheckKeys(request.keys()));
    batch->request = namespace_->NewRequest();
  }
  const auto keys = static_cast<size_t>(request.keys_size());
  // Found from the first key on; used, like all chains, from the last one on.
  const size_t uses = keys > 1 ? keys : 0;
  batch->GoOn(keys + (uses + kUsesAStep - 1) / kUsesAStep, [&](size_t step) {
    if (step < keys) {
      LookupOne(request, step, response, batch);
      if (!batch->status.ok()) batch->next = keys;
      return;
    }
    const size_t before = uses - (step - keys) * kUsesAStep;
    const store::UseContext use{.request = batch->request};
    for (size_t i = before; i > 0 && i + kUsesAStep > before; --i) {
      (void)namespace_->Probe(Id(request.keys(static_cast<int>(i - 1))), /*touch=*/true, use);
    }
  });
  // The client does not learn of leases in an answer that failed.
  if (batch->done && !batch->status.ok()) {
    for (const uint64_t lease : batch->leases) Drop(lease);
  }
  return batch->status;
}

void Session::LookupOne(const v1::Lookup& request, size_t i, v1::Found* response, Batch* batch) {
  v1::FoundItem& item = *response->add_items();
  batch->status = Lease(request.keys(static_cast<int>(i)), /*touch=*/request.keys_size() == 1,
                        &batch->leases, &item);
  batch->answer_bytes += item.ByteSizeLong() + 8;
  if (batch->status.ok() && batch->answer_bytes > kMaxAnswerBytes) {
    batch->status =
        absl::ResourceExhaustedError("the answer does not fit a frame: ask for fewer keys at once");
  }
}

void Session::Drop(uint64_t lease) {
  const auto it = leases_.find(lease);
  if (it == leases_.end()) return;
  leased_bytes_ -= it->second.size_bytes();
  leases_.erase(it);
}

absl::Status Session::Release(const v1::Release& request) {
  for (const uint64_t lease : request.leases()) Drop(lease);
  return absl::OkStatus();
}

absl::Status Session::Remove(const v1::Remove& request, v1::Removed* response, Batch* batch) {
  if (puts_.access() == v1::Welcome::PUT_ACCESS_NONE) {
    return absl::PermissionDeniedError(
        absl::StrCat("this session may not write to namespace ", namespace_->spec().name));
  }
  std::string& removed = *response->mutable_removed();
  if (batch->begins()) {
    RETURN_IF_ERROR(CheckKeys(request.keys()));
    removed.assign((request.keys_size() + 7) / 8, '\0');
  }
  batch->GoOn(static_cast<size_t>(request.keys_size()), [&](size_t i) {
    if (!namespace_->Erase(Id(request.keys(static_cast<int>(i))))) return;
    removed[i / 8] = static_cast<char>(removed[i / 8] | 1 << i % 8);
  });
  return absl::OkStatus();
}

Session::ListAnswer Session::Lister(const v1::ListKeys& request) const {
  return [ns = namespace_, fingerprint = fingerprint_.hash(), request](v1::KeyPage* response) {
    ASSIGN_OR_RETURN(KeyListing listing, ListKeys(*ns, fingerprint,
                                                  {.key_prefix = request.key_prefix(),
                                                   .page_token = request.page_token(),
                                                   .page_size = request.page_size(),
                                                   .max_bytes = kMaxAnswerBytes}));
    *response->mutable_objects() = std::move(listing.objects);
    response->set_next_page_token(std::move(listing.next_page_token));
    return absl::OkStatus();
  };
}

absl::Status Session::GrowSlots(const v1::GrowSlots& request, v1::SlotsGranted* response) {
  if (request.slots() > page_->slot_capacity()) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots: ", request.slots(), "; the limit is ", page_->slot_capacity()));
  }
  if (request.slots() > page_->slot_limit()) {
    const uint64_t more = request.slots() - page_->slot_limit();
    RETURN_IF_ERROR(host_.users.AddSlots(user_, more));
    grown_slots_ += more;
    page_->RaiseSlotLimit(request.slots());
  }
  response->set_slot_limit(page_->slot_limit());
  return absl::OkStatus();
}

}  // namespace infercache::local
