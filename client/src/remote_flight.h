// GetOrReserve over gRPC: one stream for all that a client claims and waits for at a time, because
// the stream owns the claims, and because streams of a connection are few.

#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/src/transport.h"

namespace infercache {

struct RemoteBackend;
class FlightStreamCall;

// The stream that takes the next asks; null = none is open. Thread-safe. What is asked later than
// kMaxAge after a stream's start goes to another one, so that none outlives its connection.
class RemoteFlights {
 public:
  static constexpr absl::Duration kMaxAge = absl::Minutes(1);

  RemoteFlights();
  ~RemoteFlights();

  // `make` makes the stream if there is none that takes asks; `add` is given it, and returns false
  // if it takes no more.
  template <typename Make, typename Add>
  void WithStream(Make make, Add add) ABSL_LOCKS_EXCLUDED(mu_) {
    while (true) {
      std::shared_ptr<FlightStreamCall> stream, made;
      {
        absl::MutexLock lock(&mu_);
        if (current_ == nullptr || absl::Now() > opened_ + kMaxAge) {
          made = current_ = make();
          opened_ = absl::Now();
        }
        stream = current_;
      }
      if (add(*stream, made != nullptr)) return;
      absl::MutexLock lock(&mu_);
      if (current_ == stream) current_ = nullptr;
    }
  }

 private:
  absl::Mutex mu_;
  std::shared_ptr<FlightStreamCall> current_ ABSL_GUARDED_BY(mu_);
  absl::Time opened_ ABSL_GUARDED_BY(mu_);
};

// As Transport::GetOrReserve.
void StartRemoteFlight(RemoteBackend& backend, std::span<const std::string_view> keys,
                       absl::Time deadline, absl::Duration claim_time, Transport::OnWords on_words);

}  // namespace infercache
