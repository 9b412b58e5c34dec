#include "server/local/puts.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"
#include "server/answers/failure.h"

namespace infercache::local {
namespace {

using std::chrono::steady_clock;

void SetResult(const absl::StatusOr<store::CommitOutcome>& outcome, v1::LocalPutResult* result) {
  if (!outcome.ok()) {
    result->set_outcome(v1::LOCAL_PUT_REFUSED);
    SetFailure(outcome.status(), result);
  } else {
    result->set_outcome(*outcome == store::CommitOutcome::kStored ? v1::LOCAL_PUT_STORED
                                                                  : v1::LOCAL_PUT_EXISTS);
  }
}

// One object of a batch: how it hangs together with the others, and its parent as the store knows
// it.
struct BatchItem {
  store::ChainLink link;
  Hash128 parent;
};

// All of a batch in the order in which they are to become visible: last to first, so that the head
// of a chain is its most recently used block; but a key's second appearance comes after its first,
// because a batch means what its items one by one would mean. The last one ends its request if the
// client tells of chains at all: should it go on, what continues it says so.
//
// Calls goes_on() if a chain goes on behind what may be there.
template <class GoesOn>
std::vector<Batch::StoringStep> StoringOrder(uint64_t request, std::span<const BatchItem> items,
                                             GoesOn goes_on) {
  const bool last_has_parent = !items.empty() && items.back().link.parent != Hash128();
  if (items.size() == 1) {
    if (last_has_parent) goes_on();
    return {{0, {.request = request, .ends_request = last_has_parent}}};
  }
  std::vector<store::ChainLink> links;
  for (const BatchItem& item : items) links.push_back(item.link);
  const std::vector<size_t> roots = store::ChainRoots(links);
  if (std::any_of(roots.begin(), roots.end(),
                  [&](size_t root) { return items[root].parent != Hash128(); })) {
    goes_on();
  }
  std::unordered_set<uint64_t> seen;
  std::vector<size_t> first, repeated;
  for (size_t i = 0; i < items.size(); ++i) {
    (seen.insert(links[i].key.lo).second ? first : repeated).push_back(i);
  }
  std::vector<Batch::StoringStep> order;
  order.reserve(items.size());
  const auto add = [&](size_t i) {
    order.push_back({i,
                     {.request = request,
                      .ends_request = i + 1 == items.size() && last_has_parent,
                      .anchor = items[roots[i]].parent}});
  };
  for (size_t i = first.size(); i > 0; --i) add(first[i - 1]);
  for (const size_t i : repeated) add(i);
  return order;
}

store::ChainLink LinkOf(const v1::ReserveItem& object) {
  const std::string& parent = object.info().parent_key();
  return {HashBytes(object.key()), parent.empty() ? Hash128() : HashBytes(parent)};
}

}  // namespace

Puts::Puts(Host& host, std::shared_ptr<store::Namespace> ns, const Hash128& fingerprint,
           store::ClientPage& page, PutAccess access, Flights& flights)
    : host_(host),
      namespace_(std::move(ns)),
      page_(page),
      fingerprint_(fingerprint),
      access_(access),
      flights_(flights) {}

Puts::~Puts() {
  const uint64_t count = open_.size();
  open_.clear();
  host_.reservations.Remove(count);
}

absl::Status Puts::CheckMayPut() const {
  if (access_ != v1::Welcome::PUT_ACCESS_NONE) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("this session may not write to namespace ", namespace_->spec().name));
}

absl::Status Puts::CheckDaemonCanWrite() const {
  const std::string& device = namespace_->spec().device;
  if (device.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the session is one with the memory of ",
                                                    device, ", to which the daemon cannot write"));
}

Hash128 Puts::ParentOf(const v1::ReserveItem& object) const {
  const std::string& parent = object.info().parent_key();
  return parent.empty() ? Hash128() : namespace_->ChainHash({parent, fingerprint_});
}

absl::StatusOr<std::optional<store::WriteLease>> Puts::ReserveBytes(const v1::ReserveItem& item,
                                                                    const store::UseContext& use) {
  ASSIGN_OR_RETURN(const ObjectInfo info, FromProto(item.info()));
  ASSIGN_OR_RETURN(const std::vector<PartSpec> parts, FromProto(item.parts()));
  return namespace_->Reserve({.id = {item.key(), fingerprint_},
                              .size_bytes = item.size_bytes(),
                              .parts = parts,
                              .info = &info,
                              .overwrite = item.overwrite(),
                              .use = use});
}

absl::Status Puts::CheckShare(uint64_t bytes) const {
  const store::NamespaceSpec& spec = namespace_->spec();
  const uint64_t most = std::clamp<uint64_t>(spec.max_objects / 2, kReservationsOfAnySession,
                                             kMaxReservationsPerSession);
  if (open_.size() + expired_.size() >= most) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the session holds ", most,
                     " reservations, which is the limit: half of the namespace's objects, and ",
                     kReservationsOfAnySession, " to ", kMaxReservationsPerSession));
  }
  const uint64_t share = spec.quota_bytes / 2;
  if (held_bytes_ == 0 || bytes <= share - std::min(held_bytes_, share)) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the session has reserved ", held_bytes_,
                                                   " bytes and has not committed them; ", bytes,
                                                   " more would be over half of the namespace"));
}

void Puts::ReserveItem(const v1::ReserveItem& item, v1::ReservedItem* out) {
  const absl::Status share = CheckShare(item.size_bytes());
  if (!share.ok()) return SetFailure(share, out);
  auto lease = ReserveBytes(item, {});
  if (!lease.ok()) return SetFailure(lease.status(), out);
  if (!lease->has_value()) return out->set_exists(true);
  const store::Place place = (*lease)->place();
  out->set_reservation(next_id_);
  out->set_chunk(place.chunk);
  out->set_offset(place.offset);
  // A claim that has passed on changes nothing: this one may still be the first to commit.
  const bool bound = item.claim() != 0 && flights_.BindToReservation(item.claim(), item.key());
  open_.emplace_hint(
      open_.end(), next_id_++,
      Reservation{.lease = *std::move(*lease),
                  .link = LinkOf(item),
                  .deadline = steady_clock::now() +
                              absl::ToChronoMilliseconds(host_.options.reservation_timeout),
                  .claim = bound ? item.claim() : 0});
  held_bytes_ += item.size_bytes();
  host_.reservations.Add(1);
}

absl::Status Puts::Reserve(const v1::Reserve& request, v1::Reserved* response, Batch* batch) {
  const auto items = static_cast<size_t>(request.items_size());
  if (batch->begins()) {
    RETURN_IF_ERROR(CheckMayPut());
    RETURN_IF_ERROR(host_.CheckTakesWork());
    batch->request = namespace_->NewRequest();
  }
  // Room is given to a chain's head first, but of what is there already the head is to be the most
  // recently used.
  const size_t uses = items == 0 ? 0 : items - 1;
  batch->GoOn(items + (uses + kUsesAStep - 1) / kUsesAStep, [&](size_t step) {
    if (step < items) {
      return ReserveItem(request.items(static_cast<int>(step)), response->add_items());
    }
    const size_t before = uses - (step - items) * kUsesAStep;
    const store::UseContext use{.request = batch->request};
    for (size_t i = before; i > 0 && i + kUsesAStep > before; --i) {
      const int index = static_cast<int>(i - 1);
      if (!response->items(index).exists()) continue;
      (void)namespace_->Probe({request.items(index).key(), fingerprint_}, /*touch=*/true, use);
    }
  });
  return absl::OkStatus();
}

absl::Status Puts::CheckWritten(const Reservation& reservation) const {
  RETURN_IF_ERROR(reservation.wrong);
  const uint64_t size = reservation.lease.size_bytes();
  if (access_ == v1::Welcome::PUT_ACCESS_IN_PLACE || reservation.written >= size) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("only ", reservation.written, " of ", size, " bytes were sent"));
}

absl::StatusOr<store::CommitOutcome> Puts::CommitOne(uint64_t id, const store::UseContext& use) {
  const auto it = open_.find(id);
  if (it == open_.end()) {
    // The client says that it has stopped, so that the bytes are free from here on.
    if (!FreeExpired(id)) {
      return absl::NotFoundError(absl::StrCat("the session has no reservation ", id));
    }
    return absl::DeadlineExceededError(
        absl::StrCat("reservation ", id, " took longer than ",
                     absl::FormatDuration(host_.options.reservation_timeout)));
  }
  Reservation reservation = std::move(it->second);
  open_.erase(it);
  held_bytes_ -= reservation.lease.size_bytes();
  const absl::Status written = CheckWritten(reservation);
  absl::StatusOr<store::CommitOutcome> outcome =
      written.ok() ? namespace_->Commit(std::move(reservation.lease), use) : written;
  if (!outcome.ok()) flights_.GiveUp(reservation.claim);
  return outcome;
}

void Puts::TakeTouches() {
  Count(host_.counters.touches_drained, namespace_->DrainTouches(page_, kMaxTouchesPerDrain));
}

absl::Status Puts::Commit(const v1::Commit& request, v1::PutResults* response, Batch* batch) {
  if (batch->begins()) {
    RETURN_IF_ERROR(CheckMayPut());
    for (int i = 0; i < request.reservations_size(); ++i) response->add_results();
    std::vector<BatchItem> items;
    for (const uint64_t id : request.reservations()) {
      const auto it = open_.find(id);
      items.push_back(
          it == open_.end()
              ? BatchItem{.link = {Hash128{items.size(), 0}, Hash128()}, .parent = {}}
              : BatchItem{.link = it->second.link, .parent = it->second.lease.parent()});
    }
    batch->order = StoringOrder(namespace_->NewRequest(), items, [this] { TakeTouches(); });
  }
  const uint64_t before = open_.size();
  batch->GoOn(batch->order.size(), [&](size_t step) {
    const auto& [i, use] = batch->order[step];
    const int index = static_cast<int>(i);
    SetResult(CommitOne(request.reservations(index), use), response->mutable_results(index));
  });
  host_.reservations.Remove(before - open_.size());
  return absl::OkStatus();
}

bool Puts::FreeExpired(uint64_t id) {
  const auto it = expired_.find(id);
  if (it == expired_.end()) return false;
  held_bytes_ -= it->second.bytes();
  expired_.erase(it);
  return true;
}

absl::Status Puts::Abort(const v1::Abort& request) {
  const uint64_t before = open_.size();
  for (const uint64_t id : request.reservations()) {
    const auto it = open_.find(id);
    if (it == open_.end()) {
      FreeExpired(id);
    } else {
      held_bytes_ -= it->second.lease.size_bytes();
      flights_.GiveUp(it->second.claim);
      open_.erase(it);
    }
  }
  host_.reservations.Remove(before - open_.size());
  return absl::OkStatus();
}

void Puts::Write(const v1::Write& request) {
  const auto it = open_.find(request.reservation());
  if (it == open_.end()) return;  // Commit says so
  Reservation& reservation = it->second;
  const std::span<std::byte> bytes = reservation.lease.bytes();
  const std::string& data = request.data();
  if (absl::Status can = CheckDaemonCanWrite(); !can.ok()) {
    reservation.wrong = std::move(can);
  } else if (data.size() > kMaxWriteBytes) {
    reservation.wrong = absl::InvalidArgumentError(
        absl::StrCat("a Write carried ", data.size(), " bytes; the limit is ", kMaxWriteBytes));
  } else if (request.offset() != reservation.written) {
    // Else Writes that overlap could add up to the object's size and leave bytes of an earlier
    // object between them.
    reservation.wrong = absl::InvalidArgumentError(
        absl::StrCat("a Write at ", request.offset(), " after the first ", reservation.written,
                     " bytes: they come in order"));
  } else if (data.size() > bytes.size() - request.offset()) {
    reservation.wrong = absl::InvalidArgumentError(
        absl::StrCat("a Write of ", data.size(), " bytes at ", request.offset(),
                     " lies outside of the object's ", bytes.size()));
  } else if (!data.empty()) {
    std::memcpy(bytes.data() + request.offset(), data.data(), data.size());
    reservation.written += data.size();
  }
}

absl::StatusOr<store::CommitOutcome> Puts::PutOne(const v1::ReserveItem& object,
                                                  std::string_view value,
                                                  const store::UseContext& use) {
  if (value.size() > kMaxInlineBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "value: ", value.size(), " bytes; the limit of an inline put is ", kMaxInlineBytes));
  }
  if (value.size() != object.size_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("value: ", value.size(), " bytes, but size_bytes says ", object.size_bytes()));
  }
  ASSIGN_OR_RETURN(std::optional<store::WriteLease> lease,
                   ReserveBytes(object, {.request = use.request}));
  if (!lease) return store::CommitOutcome::kExists;
  if (!value.empty()) std::memcpy(lease->bytes().data(), value.data(), value.size());
  return namespace_->Commit(*std::move(lease), use);
}

absl::Status Puts::PutInline(std::span<const InlinePutView> items, v1::PutResults* response) {
  RETURN_IF_ERROR(CheckMayPut());
  RETURN_IF_ERROR(CheckDaemonCanWrite());
  RETURN_IF_ERROR(host_.CheckTakesWork());
  for (size_t i = 0; i < items.size(); ++i) response->add_results();
  size_t parsed = items.size();  // whose object is in scratch_
  const auto parse = [&](size_t i) {
    if (parsed == i) return true;
    const std::string_view object = items[i].object;
    const bool good = scratch_.ParseFromArray(object.data(), static_cast<int>(object.size()));
    parsed = good ? i : items.size();
    return good;
  };
  std::vector<BatchItem> batch(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    // What cannot be parsed gets a hash as good as any.
    batch[i] = parse(i) ? BatchItem{.link = LinkOf(scratch_), .parent = ParentOf(scratch_)}
                        : BatchItem{.link = {Hash128{i, 0}, Hash128()}, .parent = {}};
  }
  const auto store_one = [&](size_t i, const store::UseContext& use) {
    SetResult(parse(i) ? PutOne(scratch_, items[i].value, use)
                       : absl::InvalidArgumentError("object: not a message"),
              response->mutable_results(static_cast<int>(i)));
  };
  for (const auto& [i, use] :
       StoringOrder(namespace_->NewRequest(), batch, [this] { TakeTouches(); })) {
    store_one(i, use);
  }
  return absl::OkStatus();
}

absl::Status Puts::PutInline(const v1::PutInline& request, v1::PutResults* response) {
  std::vector<std::string> objects;
  std::vector<InlinePutView> items;
  objects.reserve(request.items_size());
  for (const v1::PutInlineItem& item : request.items()) {
    items.push_back({objects.emplace_back(item.object().SerializeAsString()), item.value()});
  }
  return PutInline(items, response);
}

uint64_t Puts::Expire(steady_clock::time_point now) {
  uint64_t count = 0;
  while (!open_.empty() && open_.begin()->second.deadline <= now) {
    auto node = open_.extract(open_.begin());
    flights_.GiveUp(node.mapped().claim);
    expired_.emplace(node.key(), Quarantined(host_.books, namespace_->spec().name,
                                             std::move(node.mapped().lease)));
    ++count;
  }
  host_.reservations.Remove(count);
  return count;
}

std::vector<Quarantined> Puts::TakeAll() {
  Expire(steady_clock::time_point::max());
  std::vector<Quarantined> all;
  all.reserve(expired_.size());
  for (auto& [id, quarantined] : expired_) all.push_back(std::move(quarantined));
  expired_.clear();
  held_bytes_ = 0;
  return all;
}

}  // namespace infercache::local
