#include "client/src/remote_keys.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/status_conversion.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

// Far below any daemon's max_message_bytes, far above a chain of hashes of a long prompt.
constexpr uint64_t kMaxKeyBytesPerCall = uint64_t{2} << 20;

// Bits [0, count) of `bits` into flags[offset...].
absl::Status TakeBits(const std::string& bits, size_t count, size_t offset,
                      std::vector<bool>& flags) {
  if (bits.size() != (count + 7) / 8) {
    return BadAnswer(absl::StrCat("bitmap of ", bits.size(), " bytes for ", count, " keys"));
  }
  for (size_t i = 0; i < count; ++i) {
    flags[offset + i] = (static_cast<unsigned char>(bits[i / 8]) >> (i % 8) & 1) != 0;
  }
  return absl::OkStatus();
}

// What differs between the verbs.
struct MatchTraits {
  using Request = v1::MatchRequest;
  using Response = v1::MatchResponse;
  using Result = MatchResult;
  static constexpr char kMethod[] = "/infercache.v1.Cache/Match";

  static Result Make(size_t count) {
    return {.present = std::vector<bool>(count), .size_bytes = std::vector<uint64_t>(count)};
  }
  static absl::Status Take(const Response& response, KeyRange range, Result& result) {
    const size_t count = range.second - range.first;
    RETURN_IF_ERROR(TakeBits(response.present(), count, range.first, result.present));
    if (static_cast<size_t>(response.size_bytes_size()) != count) {
      return BadAnswer(absl::StrCat(response.size_bytes_size(), " sizes for ", count, " keys"));
    }
    std::copy(response.size_bytes().begin(), response.size_bytes().end(),
              result.size_bytes.begin() + static_cast<ptrdiff_t>(range.first));
    return absl::OkStatus();
  }
  // The prefix follows from the bits, over all calls.
  static void Finish(Result& result) {
    result.prefix_length = static_cast<size_t>(
        std::find(result.present.begin(), result.present.end(), false) - result.present.begin());
  }
};

template <typename RequestType, typename ResponseType>
struct KeysTraits {
  using Request = RequestType;
  using Response = ResponseType;
  using Result = KeysResult;

  static Result Make(size_t count) { return {.flags = std::vector<bool>(count)}; }
  static void Finish(Result&) {}
};

struct ExistsTraits : KeysTraits<v1::ExistsRequest, v1::ExistsResponse> {
  static constexpr char kMethod[] = "/infercache.v1.Cache/Exists";
  static absl::Status Take(const Response& response, KeyRange range, Result& result) {
    return TakeBits(response.present(), range.second - range.first, range.first, result.flags);
  }
};

struct DeleteTraits : KeysTraits<v1::DeleteRequest, v1::DeleteResponse> {
  static constexpr char kMethod[] = "/infercache.v1.Cache/Delete";
  static absl::Status Take(const Response& response, KeyRange range, Result& result) {
    return TakeBits(response.deleted(), range.second - range.first, range.first, result.flags);
  }
};

struct TouchTraits : KeysTraits<v1::TouchRequest, v1::TouchResponse> {
  static constexpr char kMethod[] = "/infercache.v1.Cache/Touch";
  static absl::Status Take(const Response& response, KeyRange range, Result& result) {
    return TakeBits(response.present(), range.second - range.first, range.first, result.flags);
  }
};

// One batch; as a rule one call, else one after the other. The callback of the call under way owns
// it.
template <typename Traits>
class RemoteKeys {
 public:
  using Result = typename Traits::Result;

  RemoteKeys(RemoteBackend& backend, std::span<const std::string_view> keys, absl::Time deadline,
             Done<Result> done)
      : backend_(backend),
        operation_(backend.calls),
        deadline_(deadline),
        done_(std::move(done)),
        result_(Traits::Make(keys.size())),
        ranges_(SplitKeys(keys)) {
    for (const auto& [begin, end] : ranges_) {
      typename Traits::Request request;
      *request.mutable_scope() = backend.scope;
      for (size_t i = begin; i < end; ++i) request.add_keys(keys[i].data(), keys[i].size());
      requests_.push_back(Serialize(request));
    }
  }

  static void Next(std::unique_ptr<RemoteKeys> self) {
    RemoteKeys& batch = *self;
    batch.backend_.calls.Unary(
        Traits::kMethod, std::move(batch.requests_[batch.next_]), batch.deadline_,
        /*wait_for_ready=*/false,
        [self = std::move(self)](absl::Status status, grpc::ByteBuffer& response) mutable {
          RemoteKeys& batch = *self;
          typename Traits::Response message;
          if (status.ok()) status = Parse(response, &message);
          if (status.ok())
            status = Traits::Take(message, batch.ranges_[batch.next_], batch.result_);
          if (!status.ok()) return batch.Fail(std::move(status));
          if (++batch.next_ < batch.ranges_.size()) return Next(std::move(self));
          Traits::Finish(batch.result_);
          batch.done_(std::move(batch.result_), Reached::kYes);
        });
  }

 private:
  void Fail(absl::Status status) {
    const Reached reached = ReachedBy(status);
    Result failed;
    failed.status = std::move(status);
    done_(std::move(failed), reached);
  }

  RemoteBackend& backend_;
  const RemoteCalls::Operation operation_;
  const absl::Time deadline_;
  Done<Result> done_;
  Result result_;
  const std::vector<KeyRange> ranges_;
  std::vector<grpc::ByteBuffer> requests_;
  size_t next_ = 0;
};

template <typename Traits>
void Start(RemoteBackend& backend, std::span<const std::string_view> keys, absl::Time deadline,
           Done<typename Traits::Result> done) {
  RemoteKeys<Traits>::Next(
      std::make_unique<RemoteKeys<Traits>>(backend, keys, deadline, std::move(done)));
}

}  // namespace

std::vector<KeyRange> SplitKeys(std::span<const std::string_view> keys) {
  std::vector<KeyRange> ranges;
  size_t end = keys.size();
  while (end > 0) {
    size_t begin = end;
    uint64_t bytes = 0;
    while (begin > 0 && end - begin < kMaxKeysPerCall) {
      bytes += keys[begin - 1].size();
      if (begin < end && bytes > kMaxKeyBytesPerCall) break;
      --begin;
    }
    ranges.emplace_back(begin, end);
    end = begin;
  }
  return ranges;
}

void StartRemoteMatch(RemoteBackend& backend, std::span<const std::string_view> keys,
                      absl::Time deadline, Done<MatchResult> done) {
  Start<MatchTraits>(backend, keys, deadline, std::move(done));
}

void StartRemoteKeys(RemoteBackend& backend, KeysVerb verb, std::span<const std::string_view> keys,
                     absl::Time deadline, Done<KeysResult> done) {
  switch (verb) {
    case KeysVerb::kExists:
      return Start<ExistsTraits>(backend, keys, deadline, std::move(done));
    case KeysVerb::kDelete:
      return Start<DeleteTraits>(backend, keys, deadline, std::move(done));
    case KeysVerb::kTouch:
      return Start<TouchTraits>(backend, keys, deadline, std::move(done));
  }
}

}  // namespace infercache
