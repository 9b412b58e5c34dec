// What eviction costs those who wait: the slowest hundredth of puts, and of gets beside puts, in a
// namespace that is full, beside the same in one that always has room. Over both lanes.

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/block_key.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"
#include "bench/compare/local_client.h"

namespace infercache::bench {
namespace {

constexpr size_t kEvictedBytes = size_t{1} << 20;
constexpr size_t kHotBytes = size_t{64} << 10;
constexpr size_t kHotKeys = 16;
// Removed at once, between measured puts.
constexpr size_t kBatch = 16;

uint64_t QuotaBytes(const Plan& plan) { return (plan.quick ? 48 : 192) * uint64_t{kEvictedBytes}; }

// --- The lanes: one client each, in one namespace ---

class GrpcLane {
 public:
  GrpcLane(const Servers& servers, const std::string& namespace_name)
      : client_(servers.ours), namespace_(namespace_name) {
    put_ = MakePut("", std::string(kEvictedBytes, 'v'));
    put_.mutable_scope()->set_namespace_(namespace_);
  }

  void Put(const std::string& key) {
    put_.mutable_items(0)->set_key(key);
    client_.Put(put_);
  }
  void Remove(const std::vector<std::string>& keys) {
    v1::DeleteRequest request;
    request.mutable_scope()->set_namespace_(namespace_);
    for (const std::string& key : keys) request.add_keys(key);
    client_.Delete(request);
  }
  void PutHot(const std::string& key) {
    v1::PutRequest put = MakePut(key, std::string(kHotBytes, 'h'));
    put.mutable_scope()->set_namespace_(namespace_);
    client_.Put(put);
  }
  // False: it is not there.
  bool GetHot(const std::string& key) {
    v1::GetRequest get = MakeGet(key);
    get.mutable_scope()->set_namespace_(namespace_);
    return client_.Get(get).results(0).value().size() == kHotBytes;
  }

 private:
  ProtobufClient client_;
  const std::string namespace_;
  v1::PutRequest put_;
};

class LocalLane {
 public:
  LocalLane(const Servers& servers, const std::string& namespace_name)
      : client_(servers.ours_unix, namespace_name), value_(kEvictedBytes, 'v') {}

  void Put(const std::string& key) { client_.PutInPlace(key, value_); }
  void Remove(const std::vector<std::string>& keys) { client_.Remove(keys); }
  void PutHot(const std::string& key) { client_.Put(key, std::string(kHotBytes, 'h')); }
  bool GetHot(const std::string& key) { return client_.TryCopyOut(key, buffer_); }

 private:
  LocalClient client_;
  const std::string value_;
  std::array<std::byte, kHotBytes> buffer_;
};

// --- What they do ---

// A namespace that is written without end: new keys, each put once.
template <typename Lane>
class Stream {
 public:
  // `with_room`: the writer removes its oldest objects before the namespace is full.
  Stream(const Context& context, const std::string& name, bool with_room)
      : admin_(context.servers.ours_unix),  // where its user may make namespaces
        name_(name),
        most_objects_(with_room ? QuotaBytes(context.plan) / kEvictedBytes * 3 / 4 : UINT64_MAX) {
    admin_.CreateNamespace(name, QuotaBytes(context.plan));
    lane_ = std::make_unique<Lane>(context.servers, name);
    // Once around the arena in both, so that neither side meets cold pages.
    for (uint64_t i = 0; i < 2 * QuotaBytes(context.plan) / kEvictedBytes; ++i) Put();
    evicted_before_ = admin_.Stats(name_).evicted();
  }

  // Returns what the put took; removals are not counted.
  Nanoseconds Put() {
    if (stored_.size() >= most_objects_) RemoveOldest();
    const std::string key = BlockKey(next_++);
    const auto start = std::chrono::steady_clock::now();
    lane_->Put(key);
    const Nanoseconds took = std::chrono::steady_clock::now() - start;
    if (most_objects_ != UINT64_MAX) stored_.push_back(key);
    return took;
  }

  // Ends the program unless the namespace evicted just when it should.
  void CheckEvicted() {
    const bool evicted = admin_.Stats(name_).evicted() > evicted_before_;
    if (evicted != (most_objects_ == UINT64_MAX)) {
      Die(absl::StrCat(name_, evicted ? ": objects were evicted" : ": nothing was evicted"));
    }
  }

  const std::string& name() const { return name_; }

 private:
  void RemoveOldest() {
    const std::vector<std::string> oldest(stored_.begin(), stored_.begin() + kBatch);
    stored_.erase(stored_.begin(), stored_.begin() + kBatch);
    lane_->Remove(oldest);
  }

  ProtobufClient admin_;
  const std::string name_;
  const uint64_t most_objects_;
  std::unique_ptr<Lane> lane_;
  std::deque<std::string> stored_;
  uint64_t next_ = 0;
  uint64_t evicted_before_ = 0;
};

// Reads a few objects over and over while another client writes to the same namespace.
template <typename Lane>
class ReaderBesideWriter {
 public:
  ReaderBesideWriter(const Context& context, std::shared_ptr<Stream<Lane>> stream)
      : quick_(context.plan.quick),
        lane_(context.servers, stream->name()),
        stream_(std::move(stream)) {
    for (size_t i = 0; i < kHotKeys; ++i) {
      keys_.push_back(absl::StrCat("hot", i));
      lane_.PutHot(keys_.back());
    }
  }

  void StartWriter() {
    stop_ = false;
    writer_ = std::thread([this] {
      while (!stop_) stream_->Put();
    });
  }
  void StopWriter() {
    stop_ = true;
    writer_.join();
    // The writer turns the namespace over in some 30 ms: a reader that gets no CPU for that long
    // finds what it last used gone. That must be rare, or it is not in constant use. A quick round
    // is too short to tell.
    if (!quick_ && 100 * misses_ > next_) Die("objects in constant use are gone");
  }
  Nanoseconds Get() {
    const std::string& key = keys_[next_++ % keys_.size()];
    const auto start = std::chrono::steady_clock::now();
    const bool hit = lane_.GetHot(key);
    const Nanoseconds took = std::chrono::steady_clock::now() - start;
    if (!hit) {
      ++misses_;
      lane_.PutHot(key);
    }
    return took;
  }

 private:
  const bool quick_;
  Lane lane_;
  const std::shared_ptr<Stream<Lane>> stream_;
  std::vector<std::string> keys_;
  size_t next_ = 0;
  size_t misses_ = 0;
  std::atomic<bool> stop_{false};
  std::thread writer_;
};

template <typename Lane>
Side PutSide(const Context& context, const std::string& name, bool with_room) {
  const auto stream =
      std::make_shared<Stream<Lane>>(context, absl::StrCat(name, with_room), with_room);
  return {.name = with_room ? "with room" : "evicting",
          .once = [stream] { return stream->Put(); },
          .after_round = [stream] { stream->CheckEvicted(); }};
}

template <typename Lane>
Side GetSide(const Context& context, const std::string& name, bool with_room) {
  const auto stream =
      std::make_shared<Stream<Lane>>(context, absl::StrCat(name, with_room), with_room);
  const auto reader = std::make_shared<ReaderBesideWriter<Lane>>(context, stream);
  return {.name = with_room ? "with room" : "evicting",
          .once = [reader] { return reader->Get(); },
          .before_round = [reader] { reader->StartWriter(); },
          .after_round =
              [reader, stream] {
                reader->StopWriter();
                stream->CheckEvicted();
              }};
}

void Compare(const Context& context, const std::string& row, const std::vector<Side>& sides) {
  const auto measured = Measured::TakeIdle(sides, Statistic::kP99, context.plan);
  context.rows.Print(measured.Compare(row, {1}, Target::AtMost(2)));
}

template <typename Lane>
void ComparePuts(const Context& context, const std::string& row) {
  Compare(context, row, {PutSide<Lane>(context, row, false), PutSide<Lane>(context, row, true)});
}

template <typename Lane>
void CompareGets(const Context& context, const std::string& row) {
  Compare(context, row, {GetSide<Lane>(context, row, false), GetSide<Lane>(context, row, true)});
}

}  // namespace

void PutWhileEvicting(const Context& context) {
  ComparePuts<GrpcLane>(context, "grpc_put_p99_evicting");
}

void GetWhileOthersEvict(const Context& context) {
  CompareGets<GrpcLane>(context, "grpc_get_p99_evicting");
}

void LocalPutWhileEvicting(const Context& context) {
  ComparePuts<LocalLane>(context, "local_put_p99_evicting");
}

void LocalHitWhileOthersEvict(const Context& context) {
  CompareGets<LocalLane>(context, "local_hit_p99_evicting");
}

}  // namespace infercache::bench
