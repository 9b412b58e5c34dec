#include "client/src/remote_put.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/src/put_request.h"
#include "client/src/put_stream.h"
#include "client/src/status_conversion.h"
#include "common/limits.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

constexpr char kPutMethod[] = "/infercache.v1.Cache/Put";

PutResult ToPutResult(const v1::PutResult& proto) {
  switch (proto.outcome()) {
    case v1::PUT_OUTCOME_STORED:
      return {.outcome = PutOutcome::kStored};
    case v1::PUT_OUTCOME_EXISTS:
      return {.outcome = PutOutcome::kExists};
    case v1::PUT_OUTCOME_REFUSED:
      return {.status =
                  AsSaidByDaemon(absl::Status(ErrorCodeFromWire(proto.code()), proto.message()))};
    default:
      return {.status = BadAnswer("a put without an outcome")};
  }
}

// One batch. Its calls are made one after the other, in the order of the items (a block follows its
// parent), and bound what of the batch is copied at a time. The callback of the call under way owns
// it.
class RemotePut {
 public:
  RemotePut(RemoteBackend& backend, std::span<const PutItem> items, absl::Time deadline,
            Done<std::vector<PutResult>> done)
      : backend_(backend),
        operation_(backend.calls),
        items_(items.begin(), items.end()),
        deadline_(deadline),
        done_(std::move(done)),
        results_(items.size()) {
    keys_.reserve(items.size());
    for (PutItem& item : items_) item.key = keys_.emplace_back(item.key);
  }

  static void Next(std::unique_ptr<RemotePut> self) {
    RemotePut& put = *self;
    if (put.next_ == put.items_.size()) {
      put.done_(std::move(put.results_), put.reached_);
    } else if (ValueBytes(put.items_[put.next_]) > put.backend_.max_unary_bytes) {
      put.Stream(std::move(self));
    } else {
      put.Send(std::move(self));
    }
  }

 private:
  // The items that fit in one unary call, at least one.
  size_t GroupEnd() const {
    uint64_t bytes = 0;
    size_t parts = 0;
    size_t end = next_;
    while (end < items_.size() && end - next_ < kMaxKeysPerCall) {
      // Keys, parts and framing count: 64 Ki tiny items must not outgrow the request either.
      const PutItem& item = items_[end];
      const uint64_t value_bytes = ValueBytes(item);
      if (value_bytes > backend_.max_unary_bytes) break;
      uint64_t item_bytes = value_bytes + item.key.size() + item.info.parent_key.size() + 64;
      for (const PartSpec& part : item.parts) item_bytes += 16 + 10 * part.shape.size();
      parts += item.parts.size();
      if (end > next_ &&
          (bytes + item_bytes > backend_.max_unary_bytes || parts > kMaxPartsPerCall)) {
        break;
      }
      bytes += item_bytes;
      ++end;
    }
    return end;
  }

  void Send(std::unique_ptr<RemotePut> self) {
    const size_t end = GroupEnd();
    backend_.calls.Unary(
        kPutMethod, MakePutRequest(backend_.scope, std::span(items_).subspan(next_, end - next_)),
        deadline_, /*wait_for_ready=*/false,
        [self = std::move(self), end](absl::Status status, grpc::ByteBuffer& response) mutable {
          if (status.ok()) status = self->Take(response, end);
          if (!status.ok()) self->FailUntil(end, status);
          self->next_ = self->StopsAt(status, end);
          Next(std::move(self));
        });
  }

  void Stream(std::unique_ptr<RemotePut> self) {
    RemotePut& put = *self;
    const PutItem& item = put.items_[put.next_];
    // As the daemon takes the last item of a unary put.
    const bool ends_request = put.next_ + 1 == put.items_.size() && !item.info.parent_key.empty();
    StartPutStream(put.backend_, item, ends_request, put.deadline_,
                   [self = std::move(self)](PutResult result) mutable {
                     const absl::Status status = result.status;
                     self->results_[self->next_] = std::move(result);
                     self->next_ = self->StopsAt(status, self->next_ + 1);
                     Next(std::move(self));
                   });
  }

  absl::Status Take(grpc::ByteBuffer& response, size_t end) {
    v1::PutResponse message;
    absl::Status status = Parse(response, &message);
    if (!status.ok()) return status;
    if (static_cast<size_t>(message.results_size()) != end - next_) {
      return BadAnswer(
          absl::StrCat(message.results_size(), " results for ", end - next_, " items"));
    }
    for (size_t i = next_; i < end; ++i) {
      results_[i] = ToPutResult(message.results(static_cast<int>(i - next_)));
    }
    return absl::OkStatus();
  }

  void FailUntil(size_t end, const absl::Status& status) {
    for (size_t i = next_; i < end; ++i) results_[i] = {.status = status};
  }

  // Where to go on after a call that ended with `status`: nowhere, if others would end the same
  // way.
  size_t StopsAt(const absl::Status& status, size_t end) {
    if (IsUnreachable(status)) reached_ = ReachedBy(status);
    if (reached_ == Reached::kYes && !absl::IsCancelled(status)) return end;
    next_ = end;
    FailUntil(items_.size(), status);
    return items_.size();
  }

  RemoteBackend& backend_;
  const RemoteCalls::Operation operation_;
  std::vector<std::string> keys_;
  std::vector<PutItem> items_;  // keys point into keys_
  const absl::Time deadline_;
  Done<std::vector<PutResult>> done_;

  std::vector<PutResult> results_;
  size_t next_ = 0;  // the first item that is not answered yet
  Reached reached_ = Reached::kYes;
};

}  // namespace

void StartRemotePut(RemoteBackend& backend, std::span<const PutItem> items, absl::Time deadline,
                    Done<std::vector<PutResult>> done) {
  RemotePut::Next(std::make_unique<RemotePut>(backend, items, deadline, std::move(done)));
}

}  // namespace infercache
