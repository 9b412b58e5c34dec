#include "server/rpc/response_slices.h"

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "convert/types.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

using google::protobuf::io::CodedOutputStream;
using Hold = std::shared_ptr<PinnedBudget::Hold>;

constexpr char kLengthDelimited = 2;
constexpr char BytesTag(int field) { return static_cast<char>(field << 3 | kLengthDelimited); }
constexpr char kResultsTag = BytesTag(v1::GetResponse::kResultsFieldNumber);
constexpr char kValueTag = BytesTag(v1::GetResult::kValueFieldNumber);
constexpr char kChunkTag = BytesTag(v1::GetStreamResponse::kChunkFieldNumber);
constexpr size_t kMaxVarintBytes = 10;

void AppendTagAndLength(char tag, uint64_t length, std::string* out) {
  uint8_t varint[kMaxVarintBytes];
  const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(length, varint);
  out->push_back(tag);
  out->append(reinterpret_cast<char*>(varint), end - varint);
}

uint64_t TaggedBytes(uint64_t length) {
  return 1 + CodedOutputStream::VarintSize64(length) + length;
}

// Bytes of a response that gRPC owns until it has sent them.
struct HeadOwner {
  std::string bytes;
  Hold hold;  // null if somebody else holds them
};

struct PinnedOwner {
  Hold hold;
  std::optional<store::ReadLease> lease;
};

grpc::Slice HeadSlice(HeadOwner head) {
  auto* owner = new HeadOwner(std::move(head));
  return grpc::Slice(
      owner->bytes.data(), owner->bytes.size(),
      [](void* p) {
        const std::unique_ptr<HeadOwner> done(static_cast<HeadOwner*>(p));
        if (done->hold != nullptr) done->hold->Release(done->bytes.size());
      },
      owner);
}

grpc::Slice ArenaSlice(std::span<const std::byte> bytes, void (*destroy)(void*), void* owner) {
  // gRPC only reads; its signature is older than const.
  return grpc::Slice(const_cast<std::byte*>(bytes.data()), bytes.size(), destroy, owner);
}

grpc::Slice PinnedSlice(store::ReadLease lease, const Hold& hold) {
  const std::span<const std::byte> bytes = lease.bytes();
  auto* owner = new PinnedOwner{hold, std::move(lease)};
  return ArenaSlice(
      bytes,
      [](void* p) {
        const std::unique_ptr<PinnedOwner> done(static_cast<PinnedOwner*>(p));
        const uint64_t size = done->lease->bytes().size();
        done->lease.reset();
        done->hold->Release(size);
      },
      owner);
}

// One result of a GetResponse on its way.
struct Draft {
  std::optional<store::ReadLease> lease;  // of a value that travels along
  std::string description;                // a serialized GetResult without value

  uint64_t body_bytes() const {
    return description.size() + (lease ? TaggedBytes(lease->bytes().size()) : 0);
  }
};

std::string DescribeFound(const store::ReadLease& lease) {
  v1::GetResult result;
  result.set_found(true);
  Describe(lease, result.mutable_object());
  return result.SerializeAsString();
}

std::string DescribeOmitted(uint64_t size_bytes) {
  v1::GetResult result;
  result.set_found(true);
  result.set_value_omitted(true);
  result.mutable_object()->set_size_bytes(size_bytes);
  return result.SerializeAsString();
}

// The longest result without a value and with its tag: found, omitted, the size of an object.
constexpr uint64_t kMostOmittedBytes = 2 + 2 + 2 + 2 + (2 + kMaxVarintBytes);

// Looks up the keys in order and keeps what fits. A description can be much longer than what is
// stored of it, so each is measured before the next one is made.
class ResponseDraft {
 public:
  ResponseDraft(const Scope& scope, const Environment& environment, size_t keys, bool touch)
      : scope_(scope), touch_(touch), max_message_bytes_(environment.max_message_bytes) {
    const PinnedBudget::Limits& limits = environment.budget.limits();
    max_held_bytes_ = std::min(limits.connection_bytes, limits.total_bytes);
    // Every key may yet turn out to be one that is omitted.
    message_bytes_ = keys * kMostOmittedBytes;
    drafts_.reserve(keys);
  }

  // REQUIRES: true before the first Add.
  bool fits() const { return message_bytes_ <= max_message_bytes_; }

  void Add(std::string_view key) {
    const store::ObjectId id = scope_.Id(key);
    Draft& draft = drafts_.emplace_back();
    if (refused_bytes_ != kNothingRefused) {
      // Not worth a pin, nor a hit, if the client has to ask again.
      const auto size = scope_.ns->Probe(id, /*touch=*/false);
      if (size && *size >= refused_bytes_) {
        draft.description = DescribeOmitted(*size);
        return;
      }
    }
    auto lease = scope_.ns->Lookup(id, touch_, {.ends_request = true});
    if (!lease) return;
    const uint64_t size = lease->bytes().size();
    if (HasRoom(size, 0)) draft.description = DescribeFound(*lease);
    if (draft.description.empty() || !HasRoom(size, draft.description.size())) {
      draft.description = DescribeOmitted(size);
      refused_bytes_ = std::min(refused_bytes_, size);
      return;
    }
    draft.lease = std::move(lease);
    message_bytes_ += TaggedBytes(draft.body_bytes());
  }

  std::vector<Draft> Take() { return std::move(drafts_); }

 private:
  static constexpr uint64_t kNothingRefused = std::numeric_limits<uint64_t>::max();

  bool HasRoom(uint64_t value_bytes, uint64_t description_bytes) const {
    const uint64_t body = description_bytes + TaggedBytes(value_bytes);
    return message_bytes_ + TaggedBytes(body) <= std::min(max_message_bytes_, max_held_bytes_);
  }

  const Scope& scope_;
  const bool touch_;
  const uint64_t max_message_bytes_;
  uint64_t max_held_bytes_ = 0;
  std::vector<Draft> drafts_;
  uint64_t message_bytes_ = 0;                // an upper bound
  uint64_t refused_bytes_ = kNothingRefused;  // the smallest value that did not fit
};

// Bytes of `drafts`, from the one at `from` on, that come before the next slice of its own.
size_t HeadBytes(const std::vector<Draft>& drafts, size_t from) {
  size_t bytes = 0;
  for (size_t i = from; i < drafts.size(); ++i) {
    const uint64_t value = drafts[i].lease ? drafts[i].lease->bytes().size() : 0;
    bytes += TaggedBytes(drafts[i].body_bytes());
    if (value >= kCopyBelowBytes) return bytes - value;
  }
  return bytes;
}

grpc::ByteBuffer Assemble(std::vector<Draft> drafts, const Hold& hold) {
  std::vector<grpc::Slice> slices;
  HeadOwner head{.bytes = {}, .hold = hold};
  const auto flush = [&slices, &head, &hold] {
    if (head.bytes.empty()) return;
    slices.push_back(HeadSlice(std::exchange(head, {.bytes = {}, .hold = hold})));
  };
  for (size_t i = 0; i < drafts.size(); ++i) {
    Draft& draft = drafts[i];
    if (head.bytes.empty()) head.bytes.reserve(HeadBytes(drafts, i));
    AppendTagAndLength(kResultsTag, draft.body_bytes(), &head.bytes);
    head.bytes += draft.description;
    draft.description = {};
    if (!draft.lease) continue;
    const std::span<const std::byte> value = draft.lease->bytes();
    AppendTagAndLength(kValueTag, value.size(), &head.bytes);
    if (value.size() >= kCopyBelowBytes) {
      flush();
      slices.push_back(PinnedSlice(*std::exchange(draft.lease, std::nullopt), hold));
      continue;
    }
    head.bytes.append(reinterpret_cast<const char*>(value.data()), value.size());
    draft.lease.reset();
  }
  flush();
  return grpc::ByteBuffer(slices.data(), slices.size());
}

absl::StatusOr<Hold> HoldResponse(const Scope& scope, const Environment& environment,
                                  uint64_t bytes) {
  return environment.budget.Acquire(scope.connection, bytes, bytes,
                                    std::chrono::steady_clock::now());
}

// Values are chosen from the first key on; uses count from the last one on, so that the head of a
// chain ends up most recently used.
void CountUses(const Scope& scope, const Keys& keys) {
  store::UseContext use{.request = scope.ns->NewRequest(), .ends_request = true};
  for (int i = keys.size(); i > 0; --i) {
    scope.ns->Probe(scope.Id(keys[i - 1]), /*touch=*/true, use);
    use.ends_request = false;
  }
}

}  // namespace

void Describe(const store::ReadLease& lease, v1::ObjectDescription* out) {
  infercache::Describe(lease.info(), lease.bytes().size(), lease.parts(), out);
}

absl::StatusOr<grpc::ByteBuffer> MakeGetResponse(const Scope& scope, const v1::GetRequest& request,
                                                 const Environment& environment) {
  const auto& keys = request.keys();
  ResponseDraft draft(scope, environment, keys.size(),
                      /*touch=*/keys.size() == 1 && !request.counted());
  if (!draft.fits()) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "the answer without any value may have more than ", environment.max_message_bytes,
            " bytes, the limit of a message; ask for fewer keys")),
        "MESSAGE_TOO_LARGE");
  }
  for (const std::string& key : keys) draft.Add(key);
  if (keys.size() > 1 && !request.counted()) CountUses(scope, keys);
  std::vector<Draft> drafts = draft.Take();
  uint64_t bytes = 0;
  for (const Draft& result : drafts) bytes += TaggedBytes(result.body_bytes());
  ASSIGN_OR_RETURN(const Hold hold, HoldResponse(scope, environment, bytes));
  return Assemble(std::move(drafts), hold);
}

absl::StatusOr<grpc::ByteBuffer> MakeHeldResponse(const Scope& scope,
                                                  const google::protobuf::MessageLite& message,
                                                  const Environment& environment) {
  HeadOwner all{.bytes = message.SerializeAsString(), .hold = nullptr};
  ASSIGN_OR_RETURN(all.hold, HoldResponse(scope, environment, all.bytes.size()));
  const grpc::Slice slice = HeadSlice(std::move(all));
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer MakeChunk(const std::shared_ptr<StreamedObject>& object, uint64_t offset,
                           uint64_t size) {
  HeadOwner head;
  AppendTagAndLength(kChunkTag, size, &head.bytes);
  auto* owner = new std::shared_ptr<StreamedObject>(object);
  const grpc::Slice slices[] = {
      HeadSlice(std::move(head)),
      ArenaSlice(
          object->lease.bytes().subspan(offset, size),
          [](void* p) { delete static_cast<std::shared_ptr<StreamedObject>*>(p); }, owner)};
  return grpc::ByteBuffer(slices, std::size(slices));
}

}  // namespace infercache::rpc
