#include "server/store/eviction/learned.h"

#include <algorithm>
#include <utility>

namespace infercache::store {
namespace {

uint64_t AgeMs(uint64_t now_ms, uint32_t used_ms) {
  return static_cast<uint32_t>(now_ms) - used_ms;
}

}  // namespace

LearnedPolicy::LearnedPolicy(PolicyNode* nodes) : nodes_(nodes), segments_(nodes) {
  segments_.SetOrder(table_.order());
}

void LearnedPolicy::Begin(const Use& use) {
  if (use.request == request_) return;
  request_ = use.request;
  mark_ = mark_ == UINT8_MAX ? kFirstMark : mark_ + 1;
  ++requests_;
  const uint64_t start_ms = use.now_ms - use.age_ms;
  if (!InTurn(start_ms)) {
    StartTurn(start_ms);
  } else {
    std::erase_if(opened_, [this](const Opened& opened) {
      if (opened.goes_on != 0) segments_.Close(opened.segment);
      return opened.goes_on != 0;
    });
  }
  KeepTime(use.now_ms);
}

void LearnedPolicy::StartTurn(uint64_t start_ms) {
  for (const Opened& opened : opened_) segments_.Close(opened.segment);
  opened_.clear();
  turn_ = segments_.NewTurn(start_ms);
  turn_uses_ = 0;
}

void LearnedPolicy::KeepTime(uint64_t now_ms) {
  if (learned_ms_ == 0) learned_ms_ = now_ms;
  if (now_ms - advanced_ms_ >= kBetweenAdvancesMs) {
    segments_.Advance(now_ms);
    advanced_ms_ = now_ms;
  }
  // The first lesson does not wait.
  if (requests_ >= kRequestsPerLesson &&
      (!table_.taught() || now_ms - learned_ms_ >= kBetweenLessonsMs)) {
    Learn(now_ms);
  }
}

void LearnedPolicy::Learn(uint64_t now_ms) {
  const double seconds = static_cast<double>(now_ms - learned_ms_) / 1000;
  std::vector<double> living(ReuseTable::kCells);
  for (int cell = 0; cell < ReuseTable::kCells; ++cell) {
    living[cell] = static_cast<double>(segments_.records_in(cell));
  }
  rival_.BeginLook();
  const double ghost_weight = ghosts_.SampleWeight(kSample);
  ghosts_.Sample(kSample, [&](const Ghost& ghost) {
    const uint64_t age_ms = AgeMs(now_ms, ghost.used_ms);
    living[ReuseTable::CellOf(ghost.kind, ReuseTable::BinOf(age_ms))] += ghost_weight;
    rival_.See(age_ms, ghost_weight);
  });
  const double segment_weight = segments_.SampleWeight(kSample);
  segments_.Sample(kSample, [&](const Segments::Segment& segment) {
    rival_.See(now_ms - segment.turn.start_ms, segment_weight * segment.size);
  });
  rival_.EndLook(static_cast<double>(segments_.records()), seconds);
  table_.Learn(living, seconds);
  segments_.SetOrder(table_.order());
  learned_ms_ = now_ms;
  requests_ = 0;
}

uint32_t LearnedPolicy::FindOpened(int reuse_class, uint64_t goes_on) const {
  // A request goes through its chains one after the other: what it looks for is the latest.
  for (size_t i = opened_.size(); i > 0; --i) {
    const Opened& opened = opened_[i - 1];
    if (opened.reuse_class == reuse_class && opened.goes_on == goes_on) return opened.segment;
  }
  return 0;
}

uint32_t LearnedPolicy::OpenSegment(int reuse_class) {
  if (const uint32_t opened = FindOpened(reuse_class, /*goes_on=*/0); opened != 0) return opened;
  const uint32_t segment = segments_.Open(reuse_class, turn_);
  opened_.push_back({static_cast<uint8_t>(reuse_class), /*goes_on=*/0, segment});
  return segment;
}

uint32_t LearnedPolicy::OpenSegmentBehind(int reuse_class, uint32_t anchor) {
  const uint64_t goes_on = segments_[anchor].turn.number;
  if (const uint32_t opened = FindOpened(reuse_class, goes_on); opened != 0) return opened;
  const uint32_t segment = segments_.OpenBehind(reuse_class, anchor);
  opened_.push_back({static_cast<uint8_t>(reuse_class), goes_on, segment});
  return segment;
}

void LearnedPolicy::Move(uint32_t record, int reuse_class) {
  const uint32_t group = nodes_[record].group;
  // What is used alone, which is most of what has no chain, goes with its segment.
  if (segments_[group].size == 1 && !segments_[group].kept &&
      FindOpened(reuse_class, /*goes_on=*/0) == 0) {
    segments_.Reopen(group, reuse_class, turn_);
    opened_.push_back({static_cast<uint8_t>(reuse_class), /*goes_on=*/0, group});
    Mark(record);
    return;
  }
  segments_.Remove(record);
  Enter(OpenSegment(reuse_class), record);
}

void LearnedPolicy::Enter(uint32_t segment, uint32_t record) {
  segments_.PushNearest(segment, record);
  Mark(record);
}

void LearnedPolicy::Insert(uint32_t record, const Use& use) {
  Begin(use);
  if (use.size_bytes != 0) {
    const auto bytes = static_cast<double>(use.size_bytes);
    mean_bytes_ += mean_bytes_ == 0 ? bytes : (bytes - mean_bytes_) / 64;
  }
  PolicyNode& node = nodes_[record];
  node.uses = 1;
  if (const auto ghost = ghosts_.Take(use.hash); ghost.has_value()) {
    const uint64_t age_ms = AgeMs(use.now_ms, ghost->used_ms);
    table_.CountReuse(ghost->kind, age_ms);
    rival_.CountUse(age_ms, /*hit=*/false);
    node.uses = static_cast<uint8_t>(std::min(ghost->uses + 1, 255));
  }
  const int reuse_class = table_.ClassOf(node.uses, use.ends_request, node.class_id);
  if (use.anchor != 0) return InsertBehind(use.anchor, record, reuse_class);
  Enter(OpenSegment(reuse_class), record);
}

// The request goes on: its new blocks have its age, and go before what is nearer to the root.
void LearnedPolicy::InsertBehind(uint32_t anchor, uint32_t record, int reuse_class) {
  const int anchor_class = segments_[nodes_[anchor].group].reuse_class;
  if (ReuseTable::EndsRequest(anchor_class)) {
    // It did not end its request after all.
    const uint32_t segment =
        segments_.OpenBehind(ReuseTable::WithoutEnd(anchor_class), nodes_[anchor].group);
    segments_.Remove(anchor);
    segments_.PushNearest(segment, anchor);
    segments_.Close(segment);
  }
  const uint32_t group = nodes_[anchor].group;
  if (segments_[group].reuse_class == reuse_class) {
    segments_.InsertBehind(anchor, record);
    Mark(record);
  } else {
    Enter(OpenSegmentBehind(reuse_class, group), record);
  }
}

void LearnedPolicy::Touch(uint32_t record, const Use& use) {
  PolicyNode& node = nodes_[record];
  const Segments::Segment& before = segments_[node.group];
  const int class_before = before.reuse_class;
  if (use.repeat) {
    // As long as nothing of its request has moved, what is of this turn need not move either. Once
    // something has, all that is nearer to the root must follow; once is enough.
    const bool stays =
        use.request == request_ ? node.list == mark_ : before.turn == turn_ && InTurn(use.now_ms);
    if (stays) return;
  }
  Begin(use);
  if (use.repeat) {
    // No evidence, but the latest use: else what is in constant use would go before all that was
    // stored since the last use that counted.
    return Move(record, class_before);
  }
  table_.CountReuse(class_before, use.idle_ms);
  rival_.CountUse(use.idle_ms, /*hit=*/true);
  node.uses = static_cast<uint8_t>(std::min(node.uses + 1, 255));
  Move(record, table_.ClassOf(node.uses, use.ends_request, node.class_id));
}

size_t LearnedPolicy::MostGhosts() const {
  const size_t factor = mean_bytes_ >= kLargeBytes ? kGhostsOfLarge : kGhostsOfSmall;
  return factor * std::max<size_t>(segments_.records(), 1);
}

void LearnedPolicy::Remove(uint32_t record, const Departure& departure) {
  const PolicyNode& node = nodes_[record];
  const uint8_t reuse_class = segments_[node.group].reuse_class;
  segments_.Remove(record);
  if (!departure.evicted) return table_.CountDropOut(reuse_class, departure.idle_ms);
  ghosts_.Add(departure.hash, {.used_ms = node.used_ms, .kind = reuse_class, .uses = node.uses});
  for (const size_t most = MostGhosts(); ghosts_.size() > most;) {
    const Ghost oldest = ghosts_.TakeOldest();
    table_.CountDropOut(oldest.kind, AgeMs(departure.now_ms, oldest.used_ms));
  }
}

uint32_t LearnedPolicy::Victim(uint64_t now_ms, MayGo may_go) {
  KeepTime(now_ms);
  renewed_turn_ = 0;
  const bool by_index = table_.trained() && !rival_.leads();
  return by_index ? VictimByIndex(now_ms, may_go) : VictimByAge(now_ms, may_go);
}

uint32_t LearnedPolicy::VictimByIndex(uint64_t now_ms, MayGo may_go) {
  for (int cell = segments_.FirstCell(0); cell >= 0; cell = segments_.NextCell(cell)) {
    while (true) {
      const uint32_t segment = segments_.OldestIn(cell);
      if (segment == 0 || IsRenewed(segment)) break;
      const uint32_t record = segments_[segment].deepest;
      if (may_go(record)) return record;
      Renew(record, now_ms);
    }
  }
  return 0;
}

uint32_t LearnedPolicy::VictimByAge(uint64_t now_ms, MayGo may_go) {
  while (true) {
    const uint32_t oldest = segments_.Oldest();
    if (oldest == 0 || IsRenewed(oldest)) return 0;
    const uint32_t record = segments_[oldest].deepest;
    if (may_go(record)) return record;
    Renew(record, now_ms);
  }
}

void LearnedPolicy::Renew(uint32_t record, uint64_t now_ms) {
  if (renewed_turn_ == 0) {
    StartTurn(now_ms);
    renewed_turn_ = turn_.number;
  }
  const uint32_t segment = OpenSegment(segments_[nodes_[record].group].reuse_class);
  segments_.Remove(record);
  segments_.PushNearest(segment, record);
}

}  // namespace infercache::store
