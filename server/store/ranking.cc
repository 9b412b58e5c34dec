#include "server/store/ranking.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "common/shm/session_page.h"
#include "common/status_macros.h"

namespace infercache::store {
namespace {

// Of a change of policy: about as long as a piece takes.
constexpr std::chrono::microseconds kBetweenPieces{50};

}  // namespace

absl::StatusOr<std::unique_ptr<Ranking>> Ranking::Create(std::string_view policy,
                                                         const IndexSegment& index,
                                                         const Space& space,
                                                         uint64_t assumed_object_bytes) {
  ASSIGN_OR_RETURN(SparseArray<PolicyNode> nodes,
                   SparseArray<PolicyNode>::Create(
                       size_t{index.view().header().record_capacity} + 1, "eviction order"));
  ASSIGN_OR_RETURN(std::unique_ptr<Policy> made, MakePolicy(policy, nodes.data()));
  return std::unique_ptr<Ranking>(
      new Ranking(index, space, assumed_object_bytes, std::move(nodes), policy, std::move(made)));
}

Ranking::Ranking(const IndexSegment& index, const Space& space, uint64_t assumed_object_bytes,
                 SparseArray<PolicyNode> nodes, std::string_view name,
                 std::unique_ptr<Policy> policy)
    : index_(index),
      space_(space),
      assumed_object_bytes_(assumed_object_bytes),
      nodes_(std::move(nodes)),
      name_(name),
      policy_(std::move(policy)) {
  taken_.reserve(kNotes);
  log_.reserve(kNotes);
}

void Ranking::Arrived(uint32_t number, uint64_t request, bool ends_request, const Anchor& anchor,
                      bool replaces, uint64_t now_ms) {
  const shm::Record& record = index_.view().record(number);
  space_.state(number).stamp.store(recency_.Next(now_ms), std::memory_order_relaxed);
  Write({.kind = Note::Kind::kArrival,
         .ends_request = ends_request,
         .replaces = replaces,
         .class_id = record.class_id(),
         .record = number,
         .now_ms = now_ms,
         .request = request,
         .pin = anchor.pin,
         .hash = record.hash().lo,
         .anchor_hash = anchor.hash,
         .size_bytes = assumed_object_bytes_ != 0 ? assumed_object_bytes_ : record.size()});
}

void Ranking::Used(uint32_t record, uint64_t request, bool ends_request, uint64_t now_ms) {
  space_.state(record).stamp.store(recency_.Next(now_ms), std::memory_order_relaxed);
  Write({.kind = Note::Kind::kUse,
         .ends_request = ends_request,
         .record = record,
         .now_ms = now_ms,
         .request = request});
}

void Ranking::Left(uint32_t record, EventKind why, uint64_t now_ms) {
  Write({.kind = why == EventKind::kEvicted   ? Note::Kind::kEviction
                 : why == EventKind::kExpired ? Note::Kind::kExpiry
                                              : Note::Kind::kLoss,
         .record = record,
         .now_ms = now_ms,
         .hash = index_.view().record(record).hash().lo});
}

void Ranking::UsedByClient(uint64_t pin, uint64_t request, bool ends_request, uint64_t now_ms) {
  const uint32_t record = shm::PinnedRecord(pin);
  if (record == 0 || record > index_.view().header().record_capacity) return;
  Write({.kind = Note::Kind::kClientUse,
         .ends_request = ends_request,
         .record = record,
         .now_ms = now_ms,
         .request = request,
         .pin = pin});
}

void Ranking::Write(Note note) {
  if (note.request == 0) note.request = NewRequest();
  while (true) {
    {
      MutexLock lock(&log_mu_);
      if (log_.size() < kNotes) {
        log_.push_back(note);
        return;
      }
    }
    MutexLock lock(&mu_);
    TakeNotes();
  }
}

void Ranking::TakeNotes() {
  {
    MutexLock lock(&log_mu_);
    std::swap(log_, taken_);
  }
  for (size_t i = 0; i < taken_.size(); ++i) {
    if (i + 2 * kNotesAhead < taken_.size()) {
      // Here, and not in a function of its own: gcc removes calls of one that does nothing else.
      const uint32_t record = taken_[i + 2 * kNotesAhead].record;
      __builtin_prefetch(&nodes_[record], /*rw=*/1);
      __builtin_prefetch(&space_.state(record).stamp, /*rw=*/1);
      __builtin_prefetch(&index_.view().record(record).generation);
    }
    if (i + kNotesAhead < taken_.size()) {
      const Note& next = taken_[i + kNotesAhead];
      policy_->PrefetchTouch(next.record);
      if (next.hash != 0) {
        policy_->PrefetchHash(next.hash);
        gone_.Prefetch(next.hash);
      }
    }
    Apply(taken_[i], NeverBack(taken_[i].now_ms));
  }
  taken_.clear();
}

uint64_t Ranking::NextStamp(uint64_t now_ms) {
  if (now_ms != stamps_ms_ || stamps_left_ == 0) {
    next_stamp_ = recency_.NextRun(now_ms, kNotes);
    stamps_ms_ = now_ms;
    stamps_left_ = kNotes;
  }
  --stamps_left_;
  return next_stamp_++;
}

bool Ranking::IsMember(uint64_t pin) const {
  const uint32_t record = shm::PinnedRecord(pin);
  if (record == 0 || nodes_[record].list == 0) return false;
  const uint64_t generation =
      index_.view().record(record).generation.load(std::memory_order_relaxed);
  return shm::MakePin(record, generation) == pin;
}

void Ranking::Apply(const Note& note, uint64_t now_ms) {
  // Notes of one record are in order: whoever writes one holds the shard's lock. Only a client's
  // word may name what has gone, or come again as something else.
  switch (note.kind) {
    case Note::Kind::kArrival:
      return ApplyArrival(note, now_ms);
    case Note::Kind::kUse:
      return ApplyUse(note, now_ms);
    case Note::Kind::kClientUse:
      if (!IsMember(note.pin)) return;
      space_.state(note.record).stamp.store(NextStamp(now_ms), std::memory_order_relaxed);
      return ApplyUse(note, now_ms);
    case Note::Kind::kEviction:
    case Note::Kind::kExpiry:
    case Note::Kind::kLoss:
      return ApplyDeparture(note, now_ms);
  }
}

void Ranking::ApplyDeparture(const Note& note, uint64_t now_ms) {
  const auto now = static_cast<uint32_t>(now_ms);
  const PolicyNode& node = nodes_[note.record];
  const bool evicted = note.kind == Note::Kind::kEviction;
  PolicyOf(note.record)
      .Remove(
          note.record,
          {.now_ms = now_ms, .hash = note.hash, .idle_ms = now - node.used_ms, .evicted = evicted});
  if (evicted) stats_.age_at_eviction.Add(now - node.stored_ms);
  if (note.kind != Note::Kind::kLoss) {
    gone_.Add(note.hash,
              {.used_ms = node.used_ms, .kind = evicted ? kGhostEvicted : kGhostExpired});
  }
  // One more than there is room for: it has gone for an arrival, which may be what is the oldest.
  while (gone_.size() > members_ + 1) gone_.TakeOldest();
  --members_;
}

void Ranking::CountMiss(uint64_t hash, uint32_t now_ms) {
  const std::optional<Ghost> ghost = gone_.Take(hash);
  if (!ghost.has_value()) {
    ++stats_.misses_cold;
  } else if (ghost->kind == kGhostExpired) {
    ++stats_.misses_expired;
  } else {
    ++stats_.misses_evicted;
    stats_.miss_gap.Add(now_ms - ghost->used_ms);
  }
}

void Ranking::ApplyArrival(const Note& note, uint64_t now_ms) {
  const auto now = static_cast<uint32_t>(now_ms);
  PolicyNode& node = nodes_[note.record];
  node = {.used_ms = now, .class_id = note.class_id, .owner = owner_, .stored_ms = now};
  ++members_;
  ++stats_.classes[note.class_id].stored;
  if (!note.replaces) CountMiss(note.hash, now);
  while (gone_.size() > members_) gone_.TakeOldest();
  Use use{.now_ms = now_ms,
          .request = note.request,
          .ends_request = note.ends_request,
          .hash = note.hash,
          .size_bytes = note.size_bytes};
  if (const uint32_t anchor = AnchorOf(note, now_ms); anchor != 0) {
    // Two policies' lists have nothing to do with each other.
    if (nodes_[anchor].owner == owner_) use.anchor = anchor;
    // For who looks for cold neighbours.
    space_.state(note.record)
        .stamp.store(space_.state(anchor).stamp.load(std::memory_order_relaxed),
                     std::memory_order_relaxed);
  }
  policy_->Insert(note.record, use);
}

uint32_t Ranking::AnchorOf(const Note& note, uint64_t now_ms) {
  if (IsMember(note.pin)) {
    const uint32_t anchor = shm::PinnedRecord(note.pin);
    return static_cast<uint32_t>(now_ms) - nodes_[anchor].used_ms < kAnchorMs ? anchor : 0;
  }
  // Nobody who goes through the chain from its root gets here before what was evicted is there
  // again. Above all, a prompt larger than the namespace shall not push out its own beginning.
  const bool beyond_a_hole = note.anchor_hash != 0 && gone_.Holds(note.anchor_hash, kGhostEvicted);
  return beyond_a_hole ? policy_->Victim(now_ms, [](uint32_t) { return true; }) : 0;
}

void Ranking::ApplyUse(const Note& note, uint64_t now_ms) {
  Use use{.now_ms = now_ms, .request = note.request, .ends_request = note.ends_request};
  CountUse(nodes_[note.record], &use);
  if (!use.repeat) {
    ++stats_.hits;
    ++stats_.classes[nodes_[note.record].class_id].hits;
    stats_.hit_gap.Add(use.idle_ms);
  }
  PolicyOf(note.record).Touch(note.record, use);
}

std::optional<Incarnation> Ranking::Victim(uint64_t now_ms, MayGo may_go) {
  MutexLock lock(&mu_);
  TakeNotes();
  now_ms = NeverBack(now_ms);
  Incarnation victim;
  const auto still_may_go = [&](uint32_t record) {
    victim.generation = index_.view().record(record).generation.load(std::memory_order_acquire);
    // Odd: it has just gone, and the note of that is on its way.
    return victim.generation % 2 == 0 && may_go(record);
  };
  if (next_ != nullptr) {
    // The worst are there before anybody is named.
    MoveMembers(kMovesPerVictim, now_ms);
    victim.record = next_->Victim(now_ms, still_may_go);
  }
  if (victim.record == 0) victim.record = policy_->Victim(now_ms, still_may_go);
  if (victim.record == 0) return std::nullopt;
  return victim;
}

absl::StatusOr<std::string> Ranking::SetPolicy(std::string_view name, uint64_t now_ms) {
  MutexLock change(&set_policy_mu_);
  {
    MutexLock lock(&mu_);
    ASSIGN_OR_RETURN(next_, MakePolicy(name, nodes_.data()));
    moved_used_ms_ = moved_request_ = 0;
  }
  std::unique_ptr<Policy> left;  // its memory is given back when nobody waits
  while (true) {
    {
      MutexLock lock(&mu_);
      TakeNotes();
      if (!MoveMembers(kMovesPerLock, now_ms)) {
        left = std::exchange(policy_, std::move(next_));
        ++owner_;
        return std::exchange(name_, std::string(name));
      }
    }
    // The lock is not a fair one: who waits for it would wait for all pieces.
    std::this_thread::sleep_for(kBetweenPieces);
  }
}

bool Ranking::MoveMembers(size_t count, uint64_t now_ms) {
  now_ms = NeverBack(now_ms);
  for (; count > 0; --count) {
    const uint32_t record = policy_->Victim(now_ms, [](uint32_t) { return true; });
    if (record == 0) return false;
    policy_->Remove(record, {.now_ms = now_ms});
    PolicyNode& node = nodes_[record];
    node = {.used_ms = node.used_ms,
            .class_id = node.class_id,
            .repeats = node.repeats,
            .owner = static_cast<uint8_t>(owner_ + 1),
            .stored_ms = node.stored_ms};
    // The order counts for more than the times of the last uses, which may contradict it. What was
    // used together is one request. The record itself is not read: it may have gone since the notes
    // were taken, and be another's by now.
    const uint64_t used_ms = std::min(
        RecencyClock::TimeMs(space_.state(record).stamp.load(std::memory_order_relaxed)), now_ms);
    if (moved_request_ == 0 || used_ms > moved_used_ms_) {
      moved_used_ms_ = used_ms;
      moved_request_ = NewRequest();
    }
    next_->Insert(record, {.now_ms = now_ms,
                           .request = moved_request_,
                           .age_ms = now_ms - moved_used_ms_,
                           .size_bytes = assumed_object_bytes_});
  }
  return true;
}

std::string Ranking::policy() const {
  MutexLock lock(&mu_);
  return name_;
}

UseStats Ranking::Stats() {
  MutexLock lock(&mu_);
  TakeNotes();
  return stats_;
}

uint64_t Ranking::memory_bytes(uint32_t records_ever_used) const {
  MutexLock lock(&mu_);
  return uint64_t{records_ever_used} * sizeof(PolicyNode) + policy_->memory_bytes() +
         gone_.memory_bytes() + (next_ != nullptr ? next_->memory_bytes() : 0);
}

}  // namespace infercache::store
