// Ends PutStreams whose client sends nothing any more, or too slowly: each holds a reservation.

#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <cstdint>
#include <list>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace infercache::rpc {

// Thread-safe. Outlives its entries.
class UploadWatch {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // From construction to destruction, an upload that must show progress. REQUIRES: `context` lives
  // as long.
  class Entry {
   public:
    Entry(UploadWatch& watch, grpc::CallbackServerContext& context);
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    void Progress();
    // The whole upload has so many bytes, which bounds its time.
    void Expect(uint64_t bytes);

   private:
    friend class UploadWatch;
    UploadWatch& watch_;
    grpc::CallbackServerContext& context_;
    // Guarded by the watch's mutex.
    const TimePoint started_ = std::chrono::steady_clock::now();
    TimePoint deadline_;
    TimePoint end_ = TimePoint::max();  // deadline_ is never later
    std::list<Entry*>::iterator position_;
  };

  // Each message must come within `timeout`, and the whole within as much for each started
  // `timeout_bytes`.
  UploadWatch(std::chrono::milliseconds timeout, uint64_t timeout_bytes)
      : timeout_(timeout), timeout_bytes_(timeout_bytes) {}
  // Cancels the calls that are overdue; the reactor then gives its reservation back.
  void CancelStalled(TimePoint now);

 private:
  const std::chrono::milliseconds timeout_;
  const uint64_t timeout_bytes_;
  absl::Mutex mu_;
  std::list<Entry*> entries_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache::rpc
