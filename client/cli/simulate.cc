#include "client/cli/simulate.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "server/store/eviction/block_cache.h"
#include "server/store/store.h"

namespace infercache::cli {
namespace {

using store::Namespace;
using store::UseContext;

constexpr uint64_t kStoredBytes = 1;                    // of a block
constexpr uint64_t kRoundingBytes = uint64_t{1} << 20;  // more than a quota is rounded up by
constexpr double kLongestMeasuringNs = 0.3e9;

// Traces may have requests out of order; a clock does not go back.
uint64_t StepMs(const TraceRequest& request, uint64_t* last_ms) {
  const uint64_t step = request.timestamp_ms - std::min(request.timestamp_ms, *last_ms);
  *last_ms += step;
  return step;
}

class Simulation {
 public:
  static absl::StatusOr<std::unique_ptr<Simulation>> Create(const SimulationOptions& options) {
    // Records run out at the capacity. Bytes never do, nor does the free reserve come into it.
    const uint64_t quota = 2 * store::QuotaForLiveObjects(options.capacity_blocks, kStoredBytes);
    auto simulation =
        std::unique_ptr<Simulation>(new Simulation({.capacity_bytes = quota + kRoundingBytes,
                                                    .shards = options.shards,
                                                    .arena_pages = PageChoice::k4k,
                                                    .assumed_object_bytes = options.block_bytes,
                                                    .background = false}));
    store::NamespaceSpec spec;
    spec.name = "simulation";
    spec.quota_bytes = quota;
    spec.max_objects = options.capacity_blocks;
    spec.policy = options.policy;
    ASSIGN_OR_RETURN(simulation->namespace_, simulation->store_.CreateNamespace(std::move(spec)));
    return simulation;
  }

  absl::Status Run(const TraceRequest& request) {
    clock_.AdvanceMs(StepMs(request, &last_ms_));
    const std::vector<uint64_t>& ids = request.ids;
    present_.clear();
    for (const uint64_t id : ids) {
      present_.push_back(namespace_->Probe(IdOf(id), /*touch=*/false).has_value());
    }
    const auto missing =
        static_cast<size_t>(std::find(present_.begin(), present_.end(), false) - present_.begin());
    result_.blocks += ids.size();
    result_.prefix_blocks += missing;
    result_.present_blocks +=
        static_cast<uint64_t>(std::count(present_.begin(), present_.end(), true));
    // As a worker does it: one call looks for the prefix, and another stores the rest behind it.
    UseContext use;
    use.request = namespace_->NewRequest();
    for (size_t i = ids.size(); i-- > 0;) {
      use.ends_request = i + 1 == ids.size();
      if (present_[i]) namespace_->Probe(IdOf(ids[i]), /*touch=*/true, use);
    }
    if (missing == ids.size()) return absl::OkStatus();
    if (missing > 0) use.anchor = namespace_->ChainHash(IdOf(ids[missing - 1]));
    for (size_t i = ids.size(); i-- > missing;) {
      use.ends_request = i + 1 == ids.size();
      RETURN_IF_ERROR(UseOrStore(ids[i], use));
    }
    return absl::OkStatus();
  }

  SimulationResult Result() {
    const store::NamespaceStats stats = namespace_->Stats();
    if (stats.objects > 0) {
      result_.bytes_per_object =
          static_cast<double>(stats.policy_bytes) / static_cast<double>(stats.objects);
    }
    return result_;
  }

 private:
  explicit Simulation(const store::StoreOptions& options) : store_(options, clock_) {}

  // The key's bytes are those of `id`, which outlives it.
  static store::ObjectId IdOf(const uint64_t& id) {
    return {{reinterpret_cast<const char*>(&id), sizeof id}, {}};
  }

  absl::Status UseOrStore(const uint64_t& id, const UseContext& use) {
    store::PutSpec put;
    put.id = IdOf(id);
    put.size_bytes = kStoredBytes;
    put.use = use;
    ASSIGN_OR_RETURN(std::optional<store::WriteLease> lease, namespace_->Reserve(put));
    if (!lease.has_value()) return absl::OkStatus();  // it was there, and that was its use
    return namespace_->Commit(*std::move(lease), use).status();
  }

  ManualClock clock_;
  store::Store store_;
  std::shared_ptr<Namespace> namespace_;
  uint64_t last_ms_ = 0;
  std::vector<bool> present_;
  SimulationResult result_;
};

// The trace with numbers 1..n for its ids.
struct NumberedTrace {
  explicit NumberedTrace(const Trace& trace) {
    absl::flat_hash_map<uint64_t, uint32_t> numbers;
    for (const TraceRequest& request : trace.requests()) {
      std::vector<uint32_t>& blocks = requests.emplace_back();
      for (const uint64_t id : request.ids) {
        blocks.push_back(
            numbers.emplace(id, static_cast<uint32_t>(numbers.size() + 1)).first->second);
      }
    }
    unique_blocks = numbers.size();
  }

  std::vector<std::vector<uint32_t>> requests;
  size_t unique_blocks = 0;
};

// Of the processor, for this thread: others may be at work on the machine.
double ThreadNs() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

double PassNs(const Trace& trace, const NumberedTrace& numbered, const SimulationOptions& options) {
  store::BlockCache cache(options.policy, numbered.unique_blocks, options.capacity_blocks);
  store::Use use{.now_ms = 1'000'000, .size_bytes = options.block_bytes};
  uint64_t last_ms = 0;
  const double start_ns = ThreadNs();
  for (size_t r = 0; r < numbered.requests.size(); ++r) {
    use.now_ms += StepMs(trace.requests()[r], &last_ms);
    use.request = r + 1;
    const std::vector<uint32_t>& blocks = numbered.requests[r];
    for (size_t i = blocks.size(); i-- > 0;) {
      use.ends_request = i + 1 == blocks.size();
      cache.Touch(blocks[i], use);
    }
  }
  return (ThreadNs() - start_ns) / static_cast<double>(std::max<uint64_t>(trace.blocks(), 1));
}

}  // namespace

absl::StatusOr<SimulationResult> Simulate(const Trace& trace, const SimulationOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Simulation> simulation, Simulation::Create(options));
  for (const TraceRequest& request : trace.requests()) RETURN_IF_ERROR(simulation->Run(request));
  return simulation->Result();
}

absl::StatusOr<double> MeasurePolicy(const Trace& trace, const SimulationOptions& options,
                                     int passes, uint64_t least_operations) {
  RETURN_IF_ERROR(store::CheckPolicyName(options.policy));
  const NumberedTrace numbered(trace);
  std::vector<double> ns;
  const double end_ns = ThreadNs() + kLongestMeasuringNs;
  for (uint64_t operations = 0; ns.size() < static_cast<size_t>(passes) ||
                                (operations < least_operations && ThreadNs() < end_ns);
       operations += std::max<uint64_t>(trace.blocks(), 1)) {
    ns.push_back(PassNs(trace, numbered, options));
  }
  std::nth_element(ns.begin(), ns.begin() + ns.size() / 2, ns.end());
  return ns[ns.size() / 2];
}

}  // namespace infercache::cli
