// What eviction costs those who wait: the slowest hundredth of puts, and of gets beside puts, in a
// namespace that is full, beside the same in one that always has room.

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

namespace infercache::bench {
namespace {

constexpr uint64_t kValueBytes = uint64_t{1} << 20;
constexpr uint64_t kHotBytes = uint64_t{64} << 10;
constexpr size_t kHotKeys = 16;
// Deleted at once, between measured puts.
constexpr size_t kBatch = 16;

uint64_t QuotaBytes(const Plan& plan) { return (plan.quick ? 48 : 192) * kValueBytes; }

// A namespace that is written without end: new keys, each put once.
class Stream {
 public:
  // `with_room`: the writer deletes its oldest objects before the namespace is full.
  Stream(const Servers& servers, const Plan& plan, const std::string& name, bool with_room)
      : client_(servers.ours),
        name_(name),
        most_objects_(with_room ? QuotaBytes(plan) / kValueBytes * 3 / 4 : UINT64_MAX) {
    client_.CreateNamespace(name, QuotaBytes(plan));
    request_ = MakePut("", std::string(kValueBytes, 'v'));
    request_.mutable_scope()->set_namespace_(name);
    while (with_room ? stored_.size() < most_objects_ : client_.Stats(name_).evicted() == 0) Put();
  }

  // Returns what the put took; deletions are not counted.
  Nanoseconds Put() {
    if (stored_.size() >= most_objects_) DeleteOldest();
    const std::string key = BlockKey(next_++);
    request_.mutable_items(0)->set_key(key);
    const auto start = std::chrono::steady_clock::now();
    client_.Put(request_);
    const Nanoseconds took = std::chrono::steady_clock::now() - start;
    if (most_objects_ != UINT64_MAX) stored_.push_back(key);
    return took;
  }

  // Ends the program unless the namespace evicted just when it should.
  void CheckEvicted() {
    const bool evicted = client_.Stats(name_).evicted() > 0;
    if (evicted != (most_objects_ == UINT64_MAX)) {
      Die(absl::StrCat(name_, evicted ? ": objects were evicted" : ": nothing was evicted"));
    }
  }

  const std::string& name() const { return name_; }

 private:
  void DeleteOldest() {
    v1::DeleteRequest request;
    request.mutable_scope()->set_namespace_(name_);
    for (size_t i = 0; i < kBatch; ++i) {
      request.add_keys(stored_.front());
      stored_.pop_front();
    }
    client_.Delete(request);
  }

  ProtobufClient client_;
  const std::string name_;
  const uint64_t most_objects_;
  v1::PutRequest request_;
  std::deque<std::string> stored_;
  uint64_t next_ = 0;
};

// Reads a few objects over and over while another thread writes to the same namespace.
class ReaderBesideWriter {
 public:
  ReaderBesideWriter(const Servers& servers, std::shared_ptr<Stream> stream)
      : client_(servers.ours), stream_(std::move(stream)) {
    for (size_t i = 0; i < kHotKeys; ++i) {
      v1::PutRequest put = MakePut(absl::StrCat("hot", i), std::string(kHotBytes, 'h'));
      put.mutable_scope()->set_namespace_(stream_->name());
      client_.Put(put);
      gets_.push_back(MakeGet(absl::StrCat("hot", i)));
      gets_.back().mutable_scope()->set_namespace_(stream_->name());
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
  }
  Nanoseconds Get() {
    const v1::GetRequest& get = gets_[next_++ % gets_.size()];
    const auto start = std::chrono::steady_clock::now();
    const v1::GetResponse response = client_.Get(get);
    const Nanoseconds took = std::chrono::steady_clock::now() - start;
    if (response.results(0).value().size() != kHotBytes) Die("an object in constant use is gone");
    return took;
  }

 private:
  ProtobufClient client_;
  const std::shared_ptr<Stream> stream_;
  std::vector<v1::GetRequest> gets_;
  size_t next_ = 0;
  std::atomic<bool> stop_{false};
  std::thread writer_;
};

Side PutSide(const std::string& name, const std::shared_ptr<Stream>& stream) {
  return {.name = name,
          .once = [stream] { return stream->Put(); },
          .after_round = [stream] { stream->CheckEvicted(); }};
}

Side GetSide(const Servers& servers, const std::string& name, std::shared_ptr<Stream> stream) {
  const auto reader = std::make_shared<ReaderBesideWriter>(servers, stream);
  return {.name = name,
          .once = [reader] { return reader->Get(); },
          .before_round = [reader] { reader->StartWriter(); },
          .after_round =
              [reader, stream] {
                reader->StopWriter();
                stream->CheckEvicted();
              }};
}

}  // namespace

void PutWhileEvicting(const Context& context) {
  const auto stream = [&context](const std::string& name, bool with_room) {
    return std::make_shared<Stream>(context.servers, context.plan, name, with_room);
  };
  const auto measured = Measured::TakeIdle({PutSide("evicting", stream("bench-put-full", false)),
                                            PutSide("with room", stream("bench-put-room", true))},
                                           Statistic::kP99, context.plan);
  context.rows.Print(measured.Compare("grpc_put_p99_evicting", {1}, Target::AtMost(2)));
}

void GetWhileOthersEvict(const Context& context) {
  const auto stream = [&context](const std::string& name, bool with_room) {
    return std::make_shared<Stream>(context.servers, context.plan, name, with_room);
  };
  const auto measured =
      Measured::TakeIdle({GetSide(context.servers, "evicting", stream("bench-get-full", false)),
                          GetSide(context.servers, "with room", stream("bench-get-room", true))},
                         Statistic::kP99, context.plan);
  context.rows.Print(measured.Compare("grpc_get_p99_evicting", {1}, Target::AtMost(2)));
}

}  // namespace infercache::bench
