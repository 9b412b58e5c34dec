#include "server/store/eviction/reuse_table.h"

#include <cmath>

namespace infercache::store {
namespace {

constexpr double kHalfLifeSeconds = 30 * 60;
constexpr double kPriorBlocks = 20;
// A hint has to show that it says something: most say little.
constexpr double kHintPriorBlocks = 1000;
// With fewer events in all the table would order by noise.
constexpr double kLeastEvents = 1000;

}  // namespace

ReuseTable::ReuseTable() : events_(kCells, 0), dropped_(kCells, 0), index_(kCells, 0) { Sort(); }

ReuseTable::Hazards ReuseTable::HazardsOf(const double* events, const double* waiting,
                                          const Hazards* prior, double prior_blocks) {
  Hazards hazards;
  double reached = 0;  // how many lived to see the bin
  for (int bin = kBins - 1; bin >= 0; --bin) {
    reached += events[bin] + waiting[bin];
    // Those who wait in this bin have half of it behind them.
    double at_risk = reached - 0.5 * waiting[bin];
    double came_back = events[bin];
    if (prior != nullptr) {
      came_back += prior_blocks * (*prior)[bin];
      at_risk += prior_blocks;
    }
    hazards[bin] = at_risk > 0 ? came_back / at_risk : 0;
  }
  return hazards;
}

void ReuseTable::Learn(const std::vector<double>& living, double seconds_since_last) {
  std::vector<double> waiting(kCells);
  std::array<double, kBaseClasses*kBins> base_events = {}, base_waiting = {};
  std::array<double, kBins> all_events = {}, all_waiting = {};
  double events = 0;
  for (int cell = 0; cell < kCells; ++cell) {
    waiting[cell] = living[cell] + dropped_[cell];
    base_events[cell % base_events.size()] += events_[cell];
    base_waiting[cell % base_waiting.size()] += waiting[cell];
    all_events[cell % kBins] += events_[cell];
    all_waiting[cell % kBins] += waiting[cell];
    events += events_[cell];
  }
  if (events >= kLeastEvents) trained_ = true;
  const Hazards all = HazardsOf(all_events.data(), all_waiting.data(), nullptr, 0);
  std::array<Hazards, kBaseClasses> base;
  for (int c = 0; c < kBaseClasses; ++c) {
    base[c] = HazardsOf(&base_events[c * kBins], &base_waiting[c * kBins],
                        c < 2 ? &all : &base[c - 2], kPriorBlocks);
  }
  taught_ = true;
  hints_known_ = hints_seen_;
  for (int c = 0; c < kClasses; ++c) {
    if (!Known(c)) continue;
    const Hazards& prior = base[c % kBaseClasses];
    SetIndex(c,
             HazardsOf(&events_[CellOf(c, 0)], &waiting[CellOf(c, 0)], &prior, kHintPriorBlocks));
  }
  Sort();
  Fade(seconds_since_last);
}

void ReuseTable::Sort() {
  order_.clear();
  for (int cell = 0; cell < kCells; ++cell) {
    if (Known(cell / kBins)) order_.push_back(static_cast<uint16_t>(cell));
  }
  std::sort(order_.begin(), order_.end(), [this](uint16_t a, uint16_t b) {
    if (index_[a] != index_[b]) return index_[a] < index_[b];
    return a % kBins != b % kBins ? a % kBins > b % kBins : a < b;  // the older first, as in LRU
  });
}

void ReuseTable::SetIndex(int reuse_class, const Hazards& hazards) {
  for (int bin = 0; bin < kBins; ++bin) {
    double waits = 1, reuse = 0, held_seconds = 0, best = 0;
    for (int i = bin; i < kBins; ++i) {
      // On average the first bin is half over, with somewhat more than half of its reuse: hazards
      // fall with age.
      const double share = i == bin ? 0.5 : 1.0;
      const double hazard = std::min(1.0, hazards[i] * (i == bin ? 0.7 : 1.0));
      const double seconds = share * static_cast<double>(EdgeMs(i + 1) - EdgeMs(i)) / 1000;
      reuse += waits * hazard;
      held_seconds += waits * seconds * (1 - 0.5 * hazard);
      waits *= 1 - hazard;
      best = std::max(best, reuse / held_seconds);
    }
    index_[CellOf(reuse_class, bin)] = best;
  }
}

void ReuseTable::Fade(double seconds) {
  const double left = std::exp2(-seconds / kHalfLifeSeconds);
  for (double& count : events_) count *= left;
  for (double& count : dropped_) count *= left;
}

}  // namespace infercache::store
