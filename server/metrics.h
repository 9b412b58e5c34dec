// What the daemon counts and what /metrics shows.
//
// Totals and gauges of a namespace are read from its Stats() at scrape; what happens to single
// objects and calls arrives here as events and costs them a few relaxed atomic additions.
// Thread-safe.

#pragma once

#include <prometheus/collectable.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "server/histogram.h"
#include "server/rpc/rpc_server.h"
#include "server/store/events.h"
#include "server/store/store.h"

namespace infercache::server {

class Metrics final : public prometheus::Collectable,
                      public store::Observer,
                      public rpc::CallObserver {
 public:
  // `grpc_methods`: all that a CallRecord can name (rpc::MethodNames()); valid for ever.
  explicit Metrics(const std::vector<std::string_view>& grpc_methods);
  ~Metrics() override;

  // What is read at scrape. null = not there (yet, or any more); the caller takes a source away
  // before it dies, and no scrape uses it after that call returned.
  void SetStore(const store::Store* store) ABSL_LOCKS_EXCLUDED(mu_);
  void SetRpcStats(std::function<rpc::RpcStats()> stats) ABSL_LOCKS_EXCLUDED(mu_);
  void SetLocalLane(rpc::LocalLane lane) ABSL_LOCKS_EXCLUDED(mu_);
  void SetReady(bool ready) { ready_.store(ready, std::memory_order_relaxed); }

  std::vector<prometheus::MetricFamily> Collect() const override ABSL_LOCKS_EXCLUDED(mu_);
  // Collect() in Prometheus' text format.
  std::string Text() const;

  void OnEvent(const store::Event& event) override;
  void OnCall(const rpc::CallRecord& call) override;

 private:
  static constexpr size_t kStatusCodes = 17;  // OK .. UNAUTHENTICATED

  struct Method {
    explicit Method(std::string_view method_name) : name(method_name) {}
    const std::string_view name;  // "Cache/Get"
    std::array<Histogram, kStatusCodes> durations;
    std::atomic<uint64_t> request_bytes{0};
    std::atomic<uint64_t> response_bytes{0};
  };

  // Constant after construction.
  std::vector<std::unique_ptr<Method>> methods_;

  // Have their own synchronization.
  std::atomic<bool> ready_{false};
  std::atomic<uint64_t> store_bytes_{0};
  Histogram idle_before_evict_{0.25};

  mutable Mutex mu_;
  const store::Store* store_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::function<rpc::RpcStats()> rpc_stats_ ABSL_GUARDED_BY(mu_);
  rpc::LocalLane local_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache::server
