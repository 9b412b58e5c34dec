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

// What is said of one namespace, in host memory or in a GPU's.
class TierFamilies {
 public:
  TierFamilies(std::string_view name, std::string_view tier, Families& families)
      : name_(name), tier_(tier), families_(families) {}

  template <class Value>
  void Add(MetricId id, const Value& value) {
    families_.Add(id, {name_, tier_}, value);
  }
  template <class Value>
  void Add(MetricId id, std::string_view label, const Value& value) {
    families_.Add(id, {name_, tier_, label}, value);
  }
  template <class Value>
  void Add(MetricId id, std::string_view label, std::string_view more, const Value& value) {
    families_.Add(id, {name_, tier_, label, more}, value);
  }

 private:
  const std::string_view name_, tier_;
  Families& families_;
};

void AddAge(MetricId id, const store::AgedBytes& bytes, TierFamilies& out) {
  out.Add(id, "below_1s", bytes.below_1s);
  out.Add(id, "below_10s", bytes.below_10s);
  out.Add(id, "below_60s", bytes.below_60s);
  out.Add(id, "older", bytes.older);
}

// What happens in both lanes: clients of the same-host lane count for themselves.
void AddLanes(const store::NamespaceStats& s, TierFamilies& out) {
  using Id = MetricId;
  out.Add(Id::kPins, "daemon", s.pins);
  out.Add(Id::kPins, "local", s.client_pins);
  out.Add(Id::kLookupHits, "daemon", s.hits);
  out.Add(Id::kLookupHits, "local", s.client.hits);
  out.Add(Id::kLookupMisses, "daemon", s.misses);
  out.Add(Id::kLookupMisses, "local", s.client.misses);
  out.Add(Id::kHitBytes, "daemon", s.hit_bytes);
  out.Add(Id::kHitBytes, "local", s.client.hit_bytes);
  out.Add(Id::kSavedCompute,
          static_cast<double>(s.saved_compute_us + s.client.saved_compute_us) / 1e6);
}

void AddClaims(const store::ClaimStats& s, TierFamilies& out) {
  using Id = MetricId;
  out.Add(Id::kClaims, s.claims);
  out.Add(Id::kClaimWaiters, s.waiters);
  out.Add(Id::kClaimsGranted, s.granted);
  out.Add(Id::kClaimWaits, "hit", s.waits_hit);
  out.Add(Id::kClaimWaits, "win", s.waits_won);
  out.Add(Id::kClaimWaits, "miss", s.waits_missed);
  out.Add(Id::kCoalescedComputes, s.waits_hit);
}

void AddUses(const store::UseStats& s, TierFamilies& out) {
  using Id = MetricId;
  out.Add(Id::kUses, "hit", s.hits);
  out.Add(Id::kUses, "evicted", s.misses_evicted);
  out.Add(Id::kUses, "expired", s.misses_expired);
  out.Add(Id::kUses, "cold", s.misses_cold);
  for (size_t i = 0; i < s.classes.size(); ++i) {
    if (s.classes[i].stored == 0) continue;
    const std::string class_id = std::to_string(i);
    out.Add(Id::kClassUses, class_id, "hit", s.classes[i].hits);
    out.Add(Id::kClassUses, class_id, "stored", s.classes[i].stored);
  }
  out.Add(Id::kReuseGap, "hit", s.hit_gap);
  out.Add(Id::kReuseGap, "evicted", s.miss_gap);
  out.Add(Id::kAgeAtEvict, s.age_at_eviction);
}

void AddStats(const store::NamespaceStats& s, TierFamilies& out) {
  using Id = MetricId;
  AddLanes(s, out);
  AddClaims(s.claims, out);
  AddUses(s.uses, out);
  AddAge(Id::kLimboBytes, s.limbo_age, out);
  out.Add(Id::kQuotaBytes, s.quota_bytes);
  out.Add(Id::kUsedBytes, "reserved", s.reserved_bytes);
  out.Add(Id::kUsedBytes, "visible", s.visible_bytes);
  out.Add(Id::kUsedBytes, "limbo", s.limbo_bytes);
  out.Add(Id::kObjects, s.objects);
  out.Add(Id::kMaxObjects, s.max_objects);
  out.Add(Id::kReservations, s.reservations);
  out.Add(Id::kLargestFreeBytes, s.largest_free_bytes);
  out.Add(Id::kMetadataBytes, s.metadata_bytes);
  out.Add(Id::kStoreRequests, "stored", s.stored);
  out.Add(Id::kStoreRequests, "exists", s.exists);
  out.Add(Id::kStoreRequests, "refused", s.refused);
  out.Add(Id::kEvictions, "capacity", s.evicted - s.evicted_neighbours - s.demoted);
  out.Add(Id::kEvictions, "neighbour", s.evicted_neighbours);
  out.Add(Id::kEvictions, "expired", s.expired);
  out.Add(Id::kEvictions, "erased", s.erased);
  out.Add(Id::kEvictedBytes, s.evicted_bytes);
  out.Add(Id::kIntegrityFailures, s.integrity_failures);
}

// Of a tier in a GPU.
void AddDemotion(const store::NamespaceStats& s, TierFamilies& out) {
  using Id = MetricId;
  out.Add(Id::kEvictions, "demoted", s.demoted);
  out.Add(Id::kDemoted, s.demoted);
  out.Add(Id::kDemotedBytes, s.demoted_bytes);
  out.Add(Id::kDemotionsRefused, s.demotions_refused);
  out.Add(Id::kDemoting, static_cast<double>(s.demoting_ms) / 1e3);
}

void AddObjects(const store::Namespace& objects, const rpc::LocalLane& local, TierFamilies& out) {
  const store::NamespaceStats stats = objects.Stats();
  AddStats(stats, out);
  if (!objects.spec().device.empty()) AddDemotion(stats, out);
  AddAge(MetricId::kQuarantinedBytes,
         local.quarantined_in ? local.quarantined_in(objects.spec().name) : store::AgedBytes(),
         out);
}

void AddNamespace(const store::Namespace& ns, const rpc::LocalLane& local, Families& out) {
  const std::string& name = ns.spec().name;
  TierFamilies host(name, "host", out);
  AddObjects(ns, local, host);
  host.Add(MetricId::kArenaPages, PageKindName(ns.page_kind()), uint64_t{1});
  for (const store::DeviceTier& tier : ns.device_tiers()) {
    TierFamilies device(name, tier.device, out);
    const bool ready = tier.objects != nullptr;
    device.Add(MetricId::kDeviceTierReady, uint64_t{ready});
    if (ready) AddObjects(*tier.objects, local, device);
  }
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

void AddLending(const rpc::LendingStats& s, Families& out) {
  using Id = MetricId;
  out.Add(Id::kLent, {}, s.loans);
  out.Add(Id::kLentBytes, {}, s.bytes);
  out.Add(Id::kLentAllocations, {}, s.allocations);
  out.Add(Id::kLentReaders, {}, s.readers);
  out.Add(Id::kLentBorrowed, {}, s.borrowed);
  out.Add(Id::kLentMapped, {}, s.mapped);
  out.Add(Id::kLentWaiting, {}, s.waiting);
  out.Add(Id::kLentLongestWait, {}, static_cast<double>(s.longest_wait_ms) / 1e3);
  out.Add(Id::kLends, {}, s.lent);
  out.Add(Id::kBorrows, {"hit"}, s.borrows_found);
  out.Add(Id::kBorrows, {"miss"}, s.borrows_not_found);
  out.Add(Id::kBorrowsNotOpened, {}, s.borrows_not_opened);
  out.Add(Id::kLoansEnded, {"at_once"}, s.taken_back_at_once);
  out.Add(Id::kLoansEnded, {"waited"}, s.taken_back_after_wait);
  out.Add(Id::kLoansEnded, {"owner_gone"}, s.owner_gone);
  for (const auto& [reason, count] : s.refused) out.Add(Id::kLendingRefused, {reason}, count);
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
    for (const auto& ns : store_->Namespaces()) AddNamespace(*ns, local_, out);
  }
  if (local_.stats) {
    const rpc::LocalLaneStats local = local_.stats();
    AddLocal(local, out);
    AddLending(local.lending, out);
  }
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
