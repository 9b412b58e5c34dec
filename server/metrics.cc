#include "server/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <initializer_list>
#include <limits>
#include <sstream>
#include <utility>

#include "server/metrics_table.h"
#include "server/process_stats.h"
#include "server/text.h"
#include "server/version.h"

namespace infercache::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

constexpr std::string_view kMethodPrefix = "infercache.v1.";

constexpr std::array<std::string_view, 17> kStatusNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Families in the order of the table; only those that got a value are returned.
class Families {
 public:
  using LabelValues = std::initializer_list<std::string_view>;

  void Add(MetricId id, LabelValues labels, double value) {
    ClientMetric& metric = NewMetric(id, labels);
    if (Spec(id).kind == MetricKind::kCounter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
  }
  void Add(MetricId id, LabelValues labels, uint64_t value) {
    Add(id, labels, static_cast<double>(value));
  }

  void Add(MetricId id, LabelValues labels, const Histogram& histogram) {
    const Histogram::Snapshot snapshot = histogram.Read();
    ClientMetric& metric = NewMetric(id, labels);
    metric.histogram.sample_sum = snapshot.sum_seconds;
    uint64_t cumulative = 0;
    for (size_t i = 0; i <= Histogram::kBounds; ++i) {
      cumulative += snapshot.counts[i];
      const double bound =
          i < Histogram::kBounds ? histogram.bound(i) : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, bound});
    }
    metric.histogram.sample_count = cumulative;
  }

  void Add(MetricId id, LabelValues labels, const store::TimeCounts& times) {
    ClientMetric& metric = NewMetric(id, labels);
    metric.histogram.sample_sum = static_cast<double>(times.sum_ms) / 1e3;
    uint64_t cumulative = 0;
    for (size_t i = 0; i <= store::TimeCounts::kBounds; ++i) {
      cumulative += times.counts[i];
      const double bound = i < store::TimeCounts::kBounds
                               ? static_cast<double>(store::TimeCounts::BoundMs(i)) / 1e3
                               : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, bound});
    }
    metric.histogram.sample_count = cumulative;
  }

  std::vector<MetricFamily> Take() {
    std::vector<MetricFamily> filled;
    for (MetricFamily& family : families_) {
      if (!family.metric.empty()) filled.push_back(std::move(family));
    }
    return filled;
  }

 private:
  ClientMetric& NewMetric(MetricId id, LabelValues values) {
    const MetricSpec& spec = Spec(id);
    MetricFamily& family = families_[static_cast<size_t>(id)];
    if (family.metric.empty()) {
      family.name = std::string(spec.name);
      family.help = std::string(spec.help);
      family.type = spec.kind == MetricKind::kCounter ? prometheus::MetricType::Counter
                    : spec.kind == MetricKind::kGauge ? prometheus::MetricType::Gauge
                                                      : prometheus::MetricType::Histogram;
    }
    ClientMetric& metric = family.metric.emplace_back();
    auto value = values.begin();
    ForEachPiece(spec.labels, ',', [&metric, &value, &values](std::string_view name) {
      if (value != values.end()) {
        metric.label.push_back({std::string(name), std::string(*value++)});
      }
    });
    return metric;
  }

  std::array<MetricFamily, static_cast<size_t>(MetricId::kCount)> families_;
};

void AddAge(MetricId id, std::string_view ns, const store::AgedBytes& bytes, Families& out) {
  out.Add(id, {ns, "below_1s"}, bytes.below_1s);
  out.Add(id, {ns, "below_10s"}, bytes.below_10s);
  out.Add(id, {ns, "below_60s"}, bytes.below_60s);
  out.Add(id, {ns, "older"}, bytes.older);
}

// What happens in both lanes: clients of the same-host lane count for themselves.
void AddLanes(std::string_view name, const store::NamespaceStats& s, Families& out) {
  using Id = MetricId;
  out.Add(Id::kPins, {name, "daemon"}, s.pins);
  out.Add(Id::kPins, {name, "local"}, s.client_pins);
  out.Add(Id::kLookupHits, {name, "daemon"}, s.hits);
  out.Add(Id::kLookupHits, {name, "local"}, s.client.hits);
  out.Add(Id::kLookupMisses, {name, "daemon"}, s.misses);
  out.Add(Id::kLookupMisses, {name, "local"}, s.client.misses);
  out.Add(Id::kHitBytes, {name, "daemon"}, s.hit_bytes);
  out.Add(Id::kHitBytes, {name, "local"}, s.client.hit_bytes);
  out.Add(Id::kSavedCompute, {name},
          static_cast<double>(s.saved_compute_us + s.client.saved_compute_us) / 1e6);
}

void AddClaims(std::string_view name, const store::ClaimStats& s, Families& out) {
  using Id = MetricId;
  out.Add(Id::kClaims, {name}, s.claims);
  out.Add(Id::kClaimWaiters, {name}, s.waiters);
  out.Add(Id::kClaimsGranted, {name}, s.granted);
  out.Add(Id::kClaimWaits, {name, "hit"}, s.waits_hit);
  out.Add(Id::kClaimWaits, {name, "win"}, s.waits_won);
  out.Add(Id::kClaimWaits, {name, "miss"}, s.waits_missed);
  out.Add(Id::kCoalescedComputes, {name}, s.waits_hit);
}

void AddUses(std::string_view name, const store::UseStats& s, Families& out) {
  using Id = MetricId;
  out.Add(Id::kUses, {name, "hit"}, s.hits);
  out.Add(Id::kUses, {name, "evicted"}, s.misses_evicted);
  out.Add(Id::kUses, {name, "expired"}, s.misses_expired);
  out.Add(Id::kUses, {name, "cold"}, s.misses_cold);
  for (size_t i = 0; i < s.classes.size(); ++i) {
    if (s.classes[i].stored == 0) continue;
    const std::string class_id = std::to_string(i);
    out.Add(Id::kClassUses, {name, class_id, "hit"}, s.classes[i].hits);
    out.Add(Id::kClassUses, {name, class_id, "stored"}, s.classes[i].stored);
  }
  out.Add(Id::kReuseGap, {name, "hit"}, s.hit_gap);
  out.Add(Id::kReuseGap, {name, "evicted"}, s.miss_gap);
  out.Add(Id::kAgeAtEvict, {name}, s.age_at_eviction);
}

void AddNamespace(std::string_view name, const store::NamespaceStats& s, Families& out) {
  using Id = MetricId;
  AddLanes(name, s, out);
  AddClaims(name, s.claims, out);
  AddUses(name, s.uses, out);
  AddAge(Id::kLimboBytes, name, s.limbo_age, out);
  out.Add(Id::kQuotaBytes, {name}, s.quota_bytes);
  out.Add(Id::kUsedBytes, {name, "reserved"}, s.reserved_bytes);
  out.Add(Id::kUsedBytes, {name, "visible"}, s.visible_bytes);
  out.Add(Id::kUsedBytes, {name, "limbo"}, s.limbo_bytes);
  out.Add(Id::kObjects, {name}, s.objects);
  out.Add(Id::kMaxObjects, {name}, s.max_objects);
  out.Add(Id::kReservations, {name}, s.reservations);
  out.Add(Id::kLargestFreeBytes, {name}, s.largest_free_bytes);
  out.Add(Id::kMetadataBytes, {name}, s.metadata_bytes);
  out.Add(Id::kStoreRequests, {name, "stored"}, s.stored);
  out.Add(Id::kStoreRequests, {name, "exists"}, s.exists);
  out.Add(Id::kStoreRequests, {name, "refused"}, s.refused);
  out.Add(Id::kEvictions, {name, "capacity"}, s.evicted - s.evicted_neighbours);
  out.Add(Id::kEvictions, {name, "neighbour"}, s.evicted_neighbours);
  out.Add(Id::kEvictions, {name, "expired"}, s.expired);
  out.Add(Id::kEvictions, {name, "erased"}, s.erased);
  out.Add(Id::kEvictedBytes, {name}, s.evicted_bytes);
  out.Add(Id::kIntegrityFailures, {name}, s.integrity_failures);
}

void AddLocal(const rpc::LocalLaneStats& s, Families& out) {
  using Id = MetricId;
  out.Add(Id::kLocalSessions, {}, s.sessions);
  out.Add(Id::kLocalSessionsOpened, {}, s.sessions_opened);
  for (const auto& [reason, count] : s.sessions_ended) {
    out.Add(Id::kLocalSessionsEnded, {reason}, count);
  }
  out.Add(Id::kLocalSessionsRefused, {}, s.sessions_refused);
  out.Add(Id::kLocalSessionsWithoutPidfd, {}, s.sessions_without_pidfd);
  out.Add(Id::kLocalRequests, {}, s.requests);
  out.Add(Id::kLocalRoundTrips, {}, s.round_trips);
  out.Add(Id::kLocalReservationsExpired, {}, s.reservations_expired);
  out.Add(Id::kLocalTouchesDrained, {}, s.touches_drained);
}

void AddRpc(const rpc::RpcStats& s, Families& out) {
  out.Add(MetricId::kPinnedResponseBytes, {}, s.pinned_response_bytes);
  out.Add(MetricId::kMaxPinnedResponseBytes, {}, s.max_pinned_response_bytes);
  out.Add(MetricId::kCallsInFlight, {}, s.calls_in_flight);
  out.Add(MetricId::kStalledDisconnects, {}, s.stalled_disconnects);
}

void AddProcess(const ProcessStats& s, Families& out) {
  out.Add(MetricId::kProcessCpu, {}, s.cpu_seconds);
  out.Add(MetricId::kProcessResident, {}, s.resident_bytes);
  out.Add(MetricId::kProcessVirtual, {}, s.virtual_bytes);
  out.Add(MetricId::kProcessOpenFds, {}, s.open_fds);
  out.Add(MetricId::kProcessMaxFds, {}, s.max_fds);
  out.Add(MetricId::kProcessThreads, {}, s.threads);
  out.Add(MetricId::kProcessStart, {}, s.start_time_seconds);
}

}  // namespace

std::string_view MetricKindName(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter:
      return "counter";
    case MetricKind::kGauge:
      return "gauge";
    case MetricKind::kHistogram:
      return "histogram";
  }
  return "";
}

std::string MetricReference() {
  std::string out = "| name | kind | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricSpec& spec : kMetricTable) {
    Append(out, "| `", spec.name, "` | ", MetricKindName(spec.kind), " | ",
           ReplaceAll(spec.labels, ',', ", "), " | ", spec.help, " |\n");
  }
  return out;
}

Metrics::Metrics(const std::vector<std::string_view>& grpc_methods) {
  for (std::string_view name : grpc_methods) methods_.push_back(std::make_unique<Method>(name));
}

Metrics::~Metrics() = default;

void Metrics::SetStore(const store::Store* store) {
  MutexLock lock(&mu_);
  store_ = store;
}

void Metrics::SetRpcStats(std::function<rpc::RpcStats()> stats) {
  MutexLock lock(&mu_);
  rpc_stats_ = std::move(stats);
}

void Metrics::SetLocalLane(rpc::LocalLane lane) {
  MutexLock lock(&mu_);
  local_ = std::move(lane);
}

std::vector<prometheus::MetricFamily> Metrics::Collect() const {
  Families out;
  out.Add(MetricId::kBuildInfo, {Version(), Revision()}, uint64_t{1});
  out.Add(MetricId::kReady, {}, uint64_t{ready_.load(std::memory_order_relaxed)});
  out.Add(MetricId::kStoreBytes, {}, store_bytes_.load(std::memory_order_relaxed));
  out.Add(MetricId::kIdleBeforeEvict, {}, idle_before_evict_);
  for (const auto& method : methods_) {
    const std::string name = Cat(kMethodPrefix, method->name);
    for (size_t code = 0; code < kStatusCodes; ++code) {
      if (method->durations[code].Read().count() == 0) continue;
      out.Add(MetricId::kCallDuration, {name, kStatusNames[code]}, method->durations[code]);
    }
    out.Add(MetricId::kRequestBytes, {name}, method->request_bytes.load(std::memory_order_relaxed));
    out.Add(MetricId::kResponseBytes, {name},
            method->response_bytes.load(std::memory_order_relaxed));
  }
  AddProcess(ReadProcessStats(), out);

  MutexLock lock(&mu_);
  if (store_ != nullptr) {
    out.Add(MetricId::kCapacityBytes, {}, store_->options().capacity_bytes);
    out.Add(MetricId::kCommittedBytes, {}, store_->committed_bytes());
    for (const auto& ns : store_->Namespaces()) {
      const std::string& name = ns->spec().name;
      AddNamespace(name, ns->Stats(), out);
      out.Add(MetricId::kArenaPages, {name, PageKindName(ns->page_kind())}, uint64_t{1});
      AddAge(MetricId::kQuarantinedBytes, name,
             local_.quarantined_in ? local_.quarantined_in(name) : store::AgedBytes(), out);
    }
  }
  if (local_.stats) AddLocal(local_.stats(), out);
  if (rpc_stats_) AddRpc(rpc_stats_(), out);
  return out.Take();
}

std::string Metrics::Text() const {
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, Collect());
  return text.str();
}

void Metrics::OnEvent(const store::Event& event) {
  if (event.kind == store::EventKind::kStored) {
    store_bytes_.fetch_add(event.size_bytes, std::memory_order_relaxed);
  } else if (event.kind == store::EventKind::kEvicted) {
    idle_before_evict_.Observe(static_cast<double>(event.idle_ms) / 1e3);
  }
}

void Metrics::OnCall(const rpc::CallRecord& call) {
  const auto code = static_cast<size_t>(call.code);
  for (const auto& method : methods_) {
    if (method->name != call.method) continue;
    if (code < kStatusCodes) {
      method->durations[code].Observe(absl::ToDoubleSeconds(call.latency));
    }
    method->request_bytes.fetch_add(call.request_bytes, std::memory_order_relaxed);
    method->response_bytes.fetch_add(call.response_bytes, std::memory_order_relaxed);
    return;
  }
}

}  // namespace infercache::server
