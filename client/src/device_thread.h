// What has to wait for a GPU, or may have to, without anybody's thread: pins that go when a stream
// is done, and the unmapping of memory. One thread for each opened device; and one that unmaps,
// which may take the driver as long as the GPU hangs, and no pin waits for it.
//
// Streams are marked with events, which the thread asks for while something waits. A host callback
// would tell by itself, but is work of the stream: what comes behind it waits for it.
//
// Thread-safe.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/src/fork_guard.h"
#include "common/cuda/context.h"
#include "common/cuda/stream_mark.h"
#include "common/mutex.h"

namespace infercache {

// At most a day from now.
std::chrono::steady_clock::time_point SteadyDeadline(absl::Time deadline);

class DeviceThread {
 public:
  using Clock = std::chrono::steady_clock;
  // Something that is kept until then, and destroyed on a thread of these.
  class Kept {
   public:
    virtual ~Kept() = default;
    // Whether the GPU writes there. Nobody says that all its engines have stopped when a context
    // dies: then what is read goes, and what is written is kept for good.
    virtual bool written() const { return false; }
  };

  // RESOURCE_EXHAUSTED: out of threads.
  static absl::StatusOr<std::shared_ptr<DeviceThread>> Start(
      std::shared_ptr<const cuda::PrimaryContext> context);
  // What is kept for a stream that is not done stays kept, and the thread with it. Nor does it wait
  // for what is being unmapped.
  ~DeviceThread();
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;

  // FAILED_PRECONDITION: `stream` is being captured, and what is given to it is not done now, and
  // again whenever the graph is launched, when nothing is pinned any more. Or it is the default
  // stream, and one that it waits for is being captured, which must not be given anything then.
  absl::Status CheckNotCapturing(cuda::Stream stream) const;
  // Takes *kept, and destroys it when `stream` has done what it has to do so far, also if it is
  // destroyed meanwhile; or when its context is dead. After an error *kept is still the caller's.
  absl::Status KeepUntilDone(cuda::Stream stream, std::unique_ptr<Kept>* kept);
  // The same where there is no going back, since the stream works on it already. If the driver
  // cannot mark the stream now (out of memory), waits until it can, or the stream is done; after
  // `deadline` *kept is kept for good, and the error returned.
  absl::Status KeepSurely(cuda::Stream stream, std::unique_ptr<Kept> kept,
                          Clock::time_point deadline);
  // The same of a stream that is destroyed after `kept` at the earliest, and waits for nothing: the
  // thread marks it when it can.
  void KeepOfOwnStream(cuda::Stream stream, std::unique_ptr<Kept> kept);
  // Waits for the same. DEADLINE_EXCEEDED, or what the driver says of the stream.
  absl::Status AwaitStream(cuda::Stream stream, Clock::time_point deadline);
  // On the thread that unmaps.
  void Destroy(std::unique_ptr<Kept> kept);
  // Of what the GPU still works on when nobody will say until when: the daemon takes it back with
  // the process.
  static void KeepForGood(std::unique_ptr<Kept> kept);

  // Waits until what streams are done with by now is destroyed; not for streams. False: it is not
  // by the deadline.
  bool AwaitDone(Clock::time_point deadline) const;

  const cuda::PrimaryContext& context() const { return *context_; }
  const std::shared_ptr<const cuda::PrimaryContext>& shared_context() const { return context_; }
  uint64_t waiting() const;
  bool inherited() const { return guard_.inherited(); }

 private:
  struct State;
  class Worker;

  explicit DeviceThread(std::shared_ptr<const cuda::PrimaryContext> context);

  const ForkGuard guard_;
  const std::shared_ptr<const cuda::PrimaryContext> context_;
  const std::shared_ptr<State> state_;  // shared with the threads, which may outlive this
  std::thread thread_, unmapper_;
};

}  // namespace infercache
