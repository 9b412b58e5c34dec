#include "bench/compare/rounds.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_format.h"
#include "bench/compare/busy_cpus.h"

namespace infercache::bench {
namespace {

using Clock = std::chrono::steady_clock;

double Microseconds(double nanoseconds) { return nanoseconds / 1000; }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double Summarize(std::vector<double>& nanoseconds, Statistic statistic) {
  if (statistic == Statistic::kMean) {
    const double sum = std::accumulate(nanoseconds.begin(), nanoseconds.end(), 0.0);
    return Microseconds(sum / static_cast<double>(nanoseconds.size()));
  }
  const auto at = nanoseconds.begin() + static_cast<ptrdiff_t>(nanoseconds.size() * 99 / 100);
  std::nth_element(nanoseconds.begin(), at, nanoseconds.end());
  return Microseconds(*at);
}

double RunRound(const Side& side, Statistic statistic, std::chrono::milliseconds length) {
  if (side.before_round) side.before_round();
  std::vector<double> times;
  const auto end = Clock::now() + length;
  do {
    times.push_back(static_cast<double>(side.once().count()));
  } while (Clock::now() < end);
  if (side.after_round) side.after_round();
  return Summarize(times, statistic);
}

const char* NameOf(Condition condition) { return condition == Condition::kIdle ? "idle" : "busy"; }

}  // namespace

Measured::Measured(const std::vector<Side>& sides, const Plan& plan) : plan_(plan) {
  for (const Side& side : sides) names_.push_back(side.name);
}

Measured Measured::Take(const std::vector<Side>& sides, Statistic statistic, const Plan& plan) {
  Measured measured(sides, plan);
  measured.Run(Condition::kIdle, sides, statistic);
  const BusyCpus busy;
  measured.Run(Condition::kBusy, sides, statistic);
  return measured;
}

Measured Measured::TakeIdle(const std::vector<Side>& sides, Statistic statistic, const Plan& plan) {
  Measured measured(sides, plan);
  measured.Run(Condition::kIdle, sides, statistic);
  return measured;
}

void Measured::Run(Condition condition, const std::vector<Side>& sides, Statistic statistic) {
  Series series = {condition, std::vector<std::vector<double>>(sides.size())};
  for (int round = 0; round < plan_.rounds; ++round) {
    // Each side comes first in turn: nobody always follows the same neighbour.
    for (size_t i = 0; i < sides.size(); ++i) {
      const size_t side = (i + static_cast<size_t>(round)) % sides.size();
      series.times[side].push_back(RunRound(sides[side], statistic, plan_.round));
    }
  }
  series_.push_back(std::move(series));
}

std::string Measured::Describe(const Series& series, size_t peer, double divisor) const {
  return absl::StrFormat("%s: %.4g beside %s %.4g", NameOf(series.condition),
                         Median(series.times[0]) / divisor, names_[peer],
                         Median(series.times[peer]) / divisor);
}

Row Measured::Compare(const std::string& name, const std::vector<size_t>& peers,
                      const std::optional<Target>& target, double divisor) const {
  const Series* counted = nullptr;
  size_t best = 0;
  for (const Series& series : series_) {
    for (const size_t peer : peers) {
      if (counted != nullptr && Median(series.times[peer]) >= Median(counted->times[best]))
        continue;
      counted = &series;
      best = peer;
    }
  }

  const bool is_cost = target && target->bound == Target::Bound::kAtMost;
  std::vector<double> ratios;
  for (size_t i = 0; i < counted->times[0].size(); ++i) {
    const double ours = counted->times[0][i];
    const double peer = counted->times[best][i];
    ratios.push_back(is_cost ? ours / peer : peer / ours);
  }
  const auto [lowest, highest] = std::minmax_element(ratios.begin(), ratios.end());

  Row row;
  row.name = name;
  row.ours = Median(counted->times[0]) / divisor;
  row.peer = Median(counted->times[best]) / divisor;
  row.unit = "us";
  row.ratio = Median(ratios);
  row.spread = {*lowest, *highest};
  if (target) row.target = target->ToString();
  if (target && !plan_.quick) row.ok = target->Holds(*row.ratio);
  row.note = absl::StrFormat("%s, %s counts", names_[best], NameOf(counted->condition));
  for (const Series& series : series_) {
    for (const size_t peer : peers) {
      if (&series != counted || peer != best) row.note += "; " + Describe(series, peer, divisor);
    }
  }
  return row;
}

}  // namespace infercache::bench
