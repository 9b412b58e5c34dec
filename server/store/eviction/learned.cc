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
  ++requests_;
  is_chain_ = use.ends_request;
  CloseSegments(use.now_ms - use.age_ms);
  KeepTime(use.now_ms);
}

void LearnedPolicy::CloseSegments(uint64_t start_ms) {
  const bool share =
      AtOnce(shared_since_ms_, start_ms) && uses_since_ < segments_.records() / kSharesOfAll;
  if (!share) {
    shared_since_ms_ = start_ms;
    uses_since_ = 0;
  }
  std::erase_if(opened_, [&](const Opened& opened) {
    if (share && opened.shared) return false;
    segments_.Close(opened.segment);
    return true;
  });
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
    if (opened.reuse_class == reuse_class && opened.goes_on == goes_on &&
        opened.shared == (goes_on == 0 && Shares(reuse_class))) {
      return opened.segment;
    }
  }
  return 0;
}

bool LearnedPolicy::IsOpened(uint32_t segment) const {
  return std::any_of(opened_.begin(), opened_.end(), [&](const Opened& opened) {
    return opened.segment == segment &&
           (opened.goes_on != 0 || opened.shared == Shares(opened.reuse_class));
  });
}

uint32_t LearnedPolicy::OpenSegment(int reuse_class, uint64_t start_ms) {
  if (const uint32_t opened = FindOpened(reuse_class, /*goes_on=*/0); opened != 0) return opened;
  const uint32_t segment = segments_.Open(reuse_class, start_ms);
  opened_.push_back(
      {static_cast<uint8_t>(reuse_class), /*goes_on=*/0, Shares(reuse_class), segment});
  return segment;
}

uint32_t LearnedPolicy::OpenSegmentBehind(int reuse_class, uint32_t anchor) {
  const uint64_t goes_on = segments_[anchor].turn.number;
  if (const uint32_t opened = FindOpened(reuse_class, goes_on); opened != 0) return opened;
  const uint32_t segment = segments_.OpenBehind(reuse_class, anchor);
  opened_.push_back({static_cast<uint8_t>(reuse_class), goes_on, /*shared=*/false, segment});
  return segment;
}

void LearnedPolicy::Move(uint32_t record, int reuse_class, uint64_t now_ms) {
  const uint32_t group = nodes_[record].group;
  // What is used alone, which is most of what has no chain, goes with its segment.
  if (segments_[group].size == 1 && !segments_[group].kept &&
      FindOpened(reuse_class, /*goes_on=*/0) == 0) {
    segments_.Reopen(group, reuse_class, now_ms);
    opened_.push_back(
        {static_cast<uint8_t>(reuse_class), /*goes_on=*/0, Shares(reuse_class), group});
    ++uses_since_;
    return;
  }
  segments_.Remove(record);
  Enter(OpenSegment(reuse_class, now_ms), record);
}

void LearnedPolicy::Enter(uint32_t segment, uint32_t record) {
  segments_.PushNearest(segment, record);
  ++uses_since_;
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
  Enter(OpenSegment(reuse_class, use.now_ms - use.age_ms), record);
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
  } else {
    Enter(OpenSegmentBehind(reuse_class, group), record);
  }
}

void LearnedPolicy::Touch(uint32_t record, const Use& use) {
  PolicyNode& node = nodes_[record];
  const Segments::Segment& before = segments_[node.group];
  const int class_before = before.reuse_class;
  // The same request twice: it is where it belongs.
  if (use.repeat && use.request == request_ && before.kept && IsOpened(node.group)) return;
  // What is used all the time is not worth a move each time. It ends its request: nothing deeper
  // moves either.
  if (use.repeat && use.ends_request && before.kept && ReuseTable::EndsRequest(class_before) &&
      AtOnce(before.turn.start_ms, use.now_ms)) {
    return;
  }
  Begin(use);
  if (use.repeat) {
    // No evidence, but the latest use: else what is in constant use would go before all that was
    // stored since the last use that counted.
    return Move(record, class_before, use.now_ms);
  }
  table_.CountReuse(class_before, use.idle_ms);
  rival_.CountUse(use.idle_ms, /*hit=*/true);
  node.uses = static_cast<uint8_t>(std::min(node.uses + 1, 255));
  Move(record, table_.ClassOf(node.uses, use.ends_request, node.class_id), use.now_ms);
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
  const bool by_index = table_.trained() && !rival_.leads();
  const uint32_t victim = by_index ? VictimByIndex(now_ms, may_go) : VictimByAge(now_ms, may_go);
  for (const uint8_t reuse_class : renewed_classes_) {
    segments_.Close(std::exchange(renewed_[reuse_class], 0));
  }
  renewed_classes_.clear();
  return victim;
}

uint32_t LearnedPolicy::VictimByIndex(uint64_t now_ms, MayGo may_go) {
  for (int cell = segments_.FirstCell(0); cell >= 0; cell = segments_.NextCell(cell)) {
    const uint32_t& renewed = renewed_[cell / ReuseTable::kBins];
    while (true) {
      const uint32_t segment = segments_.OldestIn(cell);
      // What this search has moved is the newest.
      if (segment == 0 || segment == renewed) break;
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
    // What this search has moved is the newest.
    if (oldest == 0 || oldest == renewed_[segments_[oldest].reuse_class]) return 0;
    const uint32_t record = segments_[oldest].deepest;
    if (may_go(record)) return record;
    Renew(record, now_ms);
  }
}

void LearnedPolicy::Renew(uint32_t record, uint64_t now_ms) {
  const int reuse_class = segments_[nodes_[record].group].reuse_class;
  uint32_t& renewed = renewed_[reuse_class];
  if (renewed == 0) {
    renewed = segments_.Open(reuse_class, now_ms);
    renewed_classes_.push_back(static_cast<uint8_t>(reuse_class));
  }
  segments_.Remove(record);
  segments_.PushNearest(renewed, record);
}

}  // namespace infercache::store
