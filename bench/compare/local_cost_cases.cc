// What the same-host lane costs where it could hurt: puts and hits while a full namespace evicts,
// and the daemon's own time while clients hit.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
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

constexpr size_t kValueBytes = size_t{1} << 20;
constexpr size_t kHotBytes = size_t{64} << 10;
constexpr size_t kHotKeys = 16;
// Removed at once, between measured puts.
constexpr size_t kBatch = 16;

uint64_t QuotaBytes(const Plan& plan) { return (plan.quick ? 48 : 192) * uint64_t{kValueBytes}; }

// A namespace that is written without end: new keys, each put once.
class Stream {
 public:
  // `with_room`: the writer removes its oldest objects before the namespace is full.
  Stream(const Servers& servers, const Plan& plan, const std::string& name, bool with_room)
      : admin_(servers.ours),
        name_(name),
        most_objects_(with_room ? QuotaBytes(plan) / kValueBytes * 3 / 4 : UINT64_MAX),
        value_(kValueBytes, 'v') {
    admin_.CreateNamespace(name, QuotaBytes(plan));
    client_ = std::make_unique<LocalClient>(servers.ours_unix, name);
    // Once around the arena in both, so that neither side meets cold pages.
    for (uint64_t i = 0; i < 2 * QuotaBytes(plan) / kValueBytes; ++i) Put();
    evicted_before_ = admin_.Stats(name_).evicted();
  }

  // Returns what the put took; removals are not counted.
  Nanoseconds Put() {
    if (stored_.size() >= most_objects_) RemoveOldest();
    const std::string key = BlockKey(next_++);
    const auto start = std::chrono::steady_clock::now();
    client_->PutInPlace(key, value_);
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
    client_->Remove(oldest);
  }

  ProtobufClient admin_;
  const std::string name_;
  const uint64_t most_objects_;
  const std::string value_;
  std::unique_ptr<LocalClient> client_;
  std::deque<std::string> stored_;
  uint64_t next_ = 0;
  uint64_t evicted_before_ = 0;
};

// Copies a few objects out, over and over, while another client writes to the same namespace.
class ReaderBesideWriter {
 public:
  ReaderBesideWriter(const Servers& servers, std::shared_ptr<Stream> stream)
      : client_(servers.ours_unix, stream->name()), stream_(std::move(stream)) {
    for (size_t i = 0; i < kHotKeys; ++i) {
      keys_.push_back(absl::StrCat("hot", i));
      client_.Put(keys_.back(), std::string(kHotBytes, 'h'));
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
    // finds what it last used gone. That must be rare, or it is not in constant use.
    if (100 * misses_ > next_) Die("objects in constant use are gone");
  }
  Nanoseconds Hit() {
    const std::string& key = keys_[next_++ % keys_.size()];
    const auto start = std::chrono::steady_clock::now();
    const bool hit = client_.TryCopyOut(key, buffer_);
    const Nanoseconds took = std::chrono::steady_clock::now() - start;
    if (!hit) {
      ++misses_;
      client_.Put(key, std::string(kHotBytes, 'h'));
    }
    return took;
  }

 private:
  LocalClient client_;
  const std::shared_ptr<Stream> stream_;
  std::vector<std::string> keys_;
  std::array<std::byte, kHotBytes> buffer_;
  size_t next_ = 0;
  size_t misses_ = 0;
  std::atomic<bool> stop_{false};
  std::thread writer_;
};

Side PutSide(const std::string& name, const std::shared_ptr<Stream>& stream) {
  return {.name = name,
          .once = [stream] { return stream->Put(); },
          .after_round = [stream] { stream->CheckEvicted(); }};
}

Side HitSide(const Servers& servers, const std::string& name, std::shared_ptr<Stream> stream) {
  const auto reader = std::make_shared<ReaderBesideWriter>(servers, stream);
  return {.name = name,
          .once = [reader] { return reader->Hit(); },
          .before_round = [reader] { reader->StartWriter(); },
          .after_round =
              [reader, stream] {
                reader->StopWriter();
                stream->CheckEvicted();
              }};
}

std::shared_ptr<Stream> MakeStream(const Context& context, const std::string& name,
                                   bool with_room) {
  return std::make_shared<Stream>(context.servers, context.plan, name, with_room);
}

// Seconds of CPU that a process has used.
double CpuSeconds(uint32_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = all.rfind(')');
  if (name_end == std::string::npos) Die("cannot read the daemon's CPU time");
  std::istringstream fields(all.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;  // state ... cmajflt
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

void LocalPutWhileEvicting(const Context& context) {
  const auto measured =
      Measured::TakeIdle({PutSide("evicting", MakeStream(context, "bench-local-put-full", false)),
                          PutSide("with room", MakeStream(context, "bench-local-put-room", true))},
                         Statistic::kP99, context.plan);
  context.rows.Print(measured.Compare("local_put_p99_evicting", {1}, Target::AtMost(2)));
}

void LocalHitWhileOthersEvict(const Context& context) {
  const auto measured = Measured::TakeIdle(
      {HitSide(context.servers, "evicting", MakeStream(context, "bench-local-hit-full", false)),
       HitSide(context.servers, "with room", MakeStream(context, "bench-local-hit-room", true))},
      Statistic::kP99, context.plan);
  context.rows.Print(measured.Compare("local_hit_p99_evicting", {1}, Target::AtMost(2)));
}

void DaemonWhileClientsHit(const Context& context) {
  constexpr size_t kClients = 2;
  constexpr size_t kObjects = 10'000;
  ProtobufClient admin(context.servers.ours);
  const uint32_t pid = admin.Pid();
  std::vector<std::string> keys;
  for (size_t i = 0; i < kObjects; ++i) keys.push_back(absl::StrCat("cpu:", BlockKey(i)));
  LocalClient(context.servers.ours_unix).PutAll(keys, std::string(4096, 'v'));

  std::atomic<bool> stop{false};
  std::atomic<uint64_t> hits{0};
  std::vector<std::thread> threads;
  const double before = CpuSeconds(pid);
  const auto start = std::chrono::steady_clock::now();
  for (size_t t = 0; t < kClients; ++t) {
    threads.emplace_back([&, t] {
      LocalClient client(context.servers.ours_unix);
      std::array<std::byte, 4096> buffer;
      uint64_t count = 0;
      for (uint64_t state = t; !stop; ++count) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        client.CopyOut(keys[(state >> 33) % kObjects], buffer);
      }
      hits += count;
    });
  }
  std::this_thread::sleep_for(context.plan.round * context.plan.rounds);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  Row row;
  row.name = "local_daemon_cpu";
  row.ours = 100 * (CpuSeconds(pid) - before) / took.count();
  row.unit = "% of a core";
  row.target = "<= 5";
  if (!context.plan.quick) row.ok = row.ours <= 5;
  row.note = absl::StrCat("while ", kClients, " clients take ",
                          static_cast<uint64_t>(static_cast<double>(hits) / took.count() / 1000),
                          " k hits a second of 4 KiB, copied out");
  context.rows.Print(row);
}

}  // namespace infercache::bench
