#include "client/src/remote_get.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/src/get_response.h"
#include "client/src/get_stream.h"
#include "client/src/status_conversion.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

constexpr char kGetMethod[] = "/infercache.v1.Cache/Get";
constexpr absl::Duration kFirstRetryDelay = absl::Milliseconds(1);
constexpr absl::Duration kMaxRetryDelay = absl::Milliseconds(16);
constexpr absl::Duration kMaxRetryDelayOfNext = absl::Milliseconds(128);

// One batch. Its calls are made one after the other, each started by the answer to the one before,
// so that no two threads are ever in here at once. The callback of the call under way owns it.
class RemoteGet {
 public:
  RemoteGet(RemoteBackend& backend, std::span<const std::string_view> keys, absl::Time deadline,
            std::unique_ptr<GetSink> sink)
      : backend_(backend),
        operation_(backend.calls),
        keys_(keys.begin(), keys.end()),
        deadline_(deadline),
        sink_(std::move(sink)),
        asked_before_(keys.size()) {
    // SplitKeys gives the range to ask first in front; groups_ is worked off from the back.
    const std::vector<KeyRange> ranges = SplitKeys(keys);
    for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) {
      std::vector<size_t> group;
      for (size_t i = range->first; i < range->second; ++i) group.push_back(i);
      groups_.push_back(std::move(group));
    }
  }

  static void Next(std::unique_ptr<RemoteGet> self) {
    RemoteGet& get = *self;
    if (!get.groups_.empty()) {
      std::vector<size_t> group = std::move(get.groups_.back());
      get.groups_.pop_back();
      get.AskFor(std::move(group), std::move(self));
    } else if (!get.streams_.empty()) {
      const size_t index = get.streams_.back();
      get.streams_.pop_back();
      get.Stream(index, std::move(self));
    } else {
      get.sink_->Deliver(get.reached_);
    }
  }

 private:
  void AskFor(std::vector<size_t> group, std::unique_ptr<RemoteGet> self) {
    v1::GetRequest request;
    *request.mutable_scope() = backend_.scope;
    for (const size_t i : group) request.add_keys(keys_[i]);
    request.set_counted(asked_before_[group.front()]);
    backend_.calls.Unary(kGetMethod, Serialize(request), deadline_, /*wait_for_ready=*/false,
                         [self = std::move(self), group = std::move(group)](
                             absl::Status status, grpc::ByteBuffer& response) mutable {
                           if (self->ShouldRetry(status)) {
                             self->groups_.push_back(std::move(group));
                             return RetryLater(std::move(self));
                           }
                           if (status.ok()) status = self->Take(group, response);
                           if (!status.ok()) self->FailAll(group, status);
                           Next(std::move(self));
                         });
  }

  void Stream(size_t index, std::unique_ptr<RemoteGet> self) {
    RemoteGet& get = *self;
    StartGetStream(backend_, get.keys_[index], deadline_, *sink_, index,
                   [self = std::move(self), index](absl::Status status) mutable {
                     if (self->ShouldRetry(status)) {
                       self->streams_.push_back(index);
                       return RetryLater(std::move(self));
                     }
                     if (status.ok()) self->retry_delay_ = kFirstRetryDelay;
                     if (!status.ok()) self->FailAll({index}, status);
                     Next(std::move(self));
                   });
  }

  // The daemon bounds the bytes of answers on their way, and one that was taken may still count
  // there, for the moment until the daemon sees that. That may be another batch's answer, or nobody
  // takes it: not worth waiting for as long as for this batch's own.
  bool ShouldRetry(const absl::Status& status) const {
    return absl::IsResourceExhausted(status) &&
           retry_delay_ <= (answered_ ? kMaxRetryDelayOfNext : kMaxRetryDelay) &&
           absl::Now() + retry_delay_ < deadline_;
  }

  static void RetryLater(std::unique_ptr<RemoteGet> self) {
    RemoteGet& get = *self;
    const absl::Duration delay = std::exchange(get.retry_delay_, 2 * get.retry_delay_);
    get.backend_.calls.After(delay, [self = std::move(self)]() mutable { Next(std::move(self)); });
  }

  // Fails only before it touched the sink.
  absl::Status Take(const std::vector<size_t>& group, const grpc::ByteBuffer& response) {
    const ReceivedMessage message(response);
    absl::StatusOr<std::vector<ReceivedResult>> results =
        ParseGetResponse(message.cursor(), group.size());
    if (!results.ok()) return BadAnswer(results.status().message());
    answered_ = true;
    retry_delay_ = kFirstRetryDelay;
    std::vector<size_t> again;
    uint64_t again_bytes = 0;
    for (size_t k = 0; k < group.size(); ++k) {
      ReceivedResult& result = (*results)[k];
      if (!result.found) continue;
      const size_t index = group[k];
      const uint64_t size_bytes = result.description.size_bytes;
      absl::Status fits = sink_->Fits(index, size_bytes);
      if (!fits.ok()) {
        sink_->Fail(index, fits);
      } else if (!result.value_omitted) {
        TakeValue(index, std::move(result));
      } else if (asked_before_[index] || size_bytes > backend_.max_unary_bytes) {
        streams_.push_back(index);
      } else {
        if (again_bytes + size_bytes > backend_.max_unary_bytes) {
          groups_.push_back(std::exchange(again, {}));
          again_bytes = 0;
        }
        asked_before_[index] = true;
        again.push_back(index);
        again_bytes += size_bytes;
      }
    }
    if (!again.empty()) groups_.push_back(std::move(again));
    return absl::OkStatus();
  }

  void TakeValue(size_t index, ReceivedResult result) {
    absl::StatusOr<std::span<std::byte>> place =
        sink_->Allocate(index, result.description.size_bytes);
    if (!place.ok()) return sink_->Fail(index, place.status());
    result.value.CopyTo(*place);
    sink_->Hit(index, std::move(result.description));
  }

  // What the failed call was for; all that is left, if more calls would end the same way.
  void FailAll(const std::vector<size_t>& group, const absl::Status& status) {
    for (const size_t index : group) sink_->Fail(index, status);
    if (IsUnreachable(status)) reached_ = ReachedBy(status);
    if (reached_ == Reached::kYes && !absl::IsCancelled(status)) return;
    for (const std::vector<size_t>& other : std::exchange(groups_, {})) {
      for (const size_t index : other) sink_->Fail(index, status);
    }
    for (const size_t index : std::exchange(streams_, {})) sink_->Fail(index, status);
  }

  RemoteBackend& backend_;
  const RemoteCalls::Operation operation_;
  const std::vector<std::string> keys_;
  const absl::Time deadline_;
  const std::unique_ptr<GetSink> sink_;

  std::vector<std::vector<size_t>> groups_;  // of indices, one unary call each; the last is next
  std::vector<size_t> streams_;              // one stream each
  std::vector<bool> asked_before_;           // its value was left out of an answer already
  bool answered_ = false;                    // a call of this batch was
  absl::Duration retry_delay_ = kFirstRetryDelay;
  Reached reached_ = Reached::kYes;
};

}  // namespace

void StartRemoteGet(RemoteBackend& backend, std::span<const std::string_view> keys,
                    absl::Time deadline, std::unique_ptr<GetSink> sink) {
  RemoteGet::Next(std::make_unique<RemoteGet>(backend, keys, deadline, std::move(sink)));
}

}  // namespace infercache
