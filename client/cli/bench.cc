#include "client/cli/bench.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/block_content.h"
#include "client/cli/keys.h"
#include "client/cli/parallel.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace infercache::cli {
namespace {

// Of one call of the preparation and of the clean-up.
constexpr uint64_t kMaxCallBytes = uint64_t{16} << 20;
constexpr size_t kMaxCallKeys = 8'192;

// What all clients share; constant while they run.
struct Workload {
  BenchOptions options;
  std::vector<std::string> keys;
  std::vector<std::string_view> views;
  std::vector<std::byte> value;

  PutItem Item(size_t key) const {
    PutItem item;
    item.key = views[key];
    item.value = {value};
    item.overwrite = true;
    return item;
  }
};

Workload MakeWorkload(const BenchOptions& options) {
  Workload load;
  load.options = options;
  const std::string prefix =
      absl::StrCat("infercachectl-bench/", getpid(), "-", absl::ToUnixMillis(absl::Now()), "/");
  for (uint64_t i = 0; i < options.keys; ++i) load.keys.push_back(absl::StrCat(prefix, i));
  load.views = Views(load.keys);
  load.value.resize(options.size_bytes);
  FillBlock(/*id=*/0, load.value);
  return load;
}

absl::Status StoreAll(Client& client, const Workload& load) {
  const uint64_t fit = std::max<uint64_t>(1, kMaxCallBytes / load.options.size_bytes);
  const size_t per_call = std::min<uint64_t>(fit, kMaxCallKeys);
  for (size_t begin = 0; begin < load.keys.size(); begin += per_call) {
    std::vector<PutItem> items;
    for (size_t i = begin; i < std::min(begin + per_call, load.keys.size()); ++i) {
      items.push_back(load.Item(i));
    }
    for (const PutResult& result : client.Put(items)) RETURN_IF_ERROR(result.status);
  }
  return absl::OkStatus();
}

absl::Status DeleteAll(Client& client, const Workload& load) {
  std::span<const std::string_view> rest = load.views;
  while (!rest.empty()) {
    const auto batch = rest.first(std::min(rest.size(), kMaxCallKeys));
    RETURN_IF_ERROR(client.Delete(batch).status);
    rest = rest.subspan(batch.size());
  }
  return absl::OkStatus();
}

// One client and what it measured. Used by one thread.
class Worker {
 public:
  Worker(const Workload& load, std::unique_ptr<Client> client, size_t first_key)
      : load_(load), client_(std::move(client)), key_(first_key % load.keys.size()) {}

  Client& client() { return *client_; }
  const BenchResult& result() const { return result_; }

  void RunOnce() {
    uint64_t bytes = 0, misses = 0;
    const uint64_t start_ns = NowNs();
    const absl::Status status = Call(bytes, misses);
    const uint64_t end_ns = NowNs();
    key_ = key_ + 1 == load_.keys.size() ? 0 : key_ + 1;
    if (!status.ok()) {
      if (result_.errors++ == 0) result_.first_error = status;
      return;
    }
    ++result_.ops;
    result_.bytes += bytes;
    result_.misses += misses;
    result_.latency.Add(end_ns - start_ns);
  }

 private:
  absl::Status Call(uint64_t& bytes, uint64_t& misses) {
    switch (load_.options.op) {
      case BenchOp::kGet: {
        const GetResult result = client_->Get(load_.views[key_]);
        RETURN_IF_ERROR(result.status);
        if (result.hit()) {
          bytes = result.object->bytes().size();
          if (bytes != load_.options.size_bytes) {
            return absl::DataLossError(absl::StrCat("a value has ", bytes, " bytes"));
          }
        } else {
          misses = 1;
        }
        return absl::OkStatus();
      }
      case BenchOp::kPut: {
        const PutResult result = client_->Put(load_.Item(key_));
        bytes = load_.options.size_bytes;
        return result.status;
      }
      case BenchOp::kMatch: {
        const MatchResult result = client_->Match(load_.views);
        misses =
            static_cast<uint64_t>(std::count(result.present.begin(), result.present.end(), false));
        return result.status;
      }
    }
    return absl::InternalError("unknown operation");
  }

  const Workload& load_;
  std::unique_ptr<Client> client_;
  size_t key_;
  BenchResult result_;
};

void Merge(BenchResult& into, const BenchResult& from) {
  into.ops += from.ops;
  into.bytes += from.bytes;
  into.errors += from.errors;
  into.misses += from.misses;
  into.first_error.Update(from.first_error);
  into.latency.Merge(from.latency);
}

BenchResult Measure(std::vector<Worker>& workers, double seconds,
                    const std::function<bool(double)>& watch) {
  std::atomic<bool> stop{false};
  const uint64_t start_ns = NowNs();
  const uint64_t end_ns = start_ns + static_cast<uint64_t>(seconds * 1e9);
  RunThreads(
      static_cast<int>(workers.size()),
      [&](int i) {
        while (!stop.load(std::memory_order_relaxed) && NowNs() < end_ns) workers[i].RunOnce();
      },
      [&] {
        if (!watch(static_cast<double>(NowNs() - start_ns) / 1e9)) {
          stop.store(true, std::memory_order_relaxed);
        }
      });
  BenchResult result;
  result.seconds = static_cast<double>(NowNs() - start_ns) / 1e9;
  for (const Worker& worker : workers) Merge(result, worker.result());
  return result;
}

}  // namespace

uint64_t DefaultKeys(BenchOp op, uint64_t size_bytes) {
  constexpr uint64_t kMost = 4'096, kLeast = 16, kBytes = uint64_t{64} << 20;
  return op == BenchOp::kMatch ? kMost : std::clamp(kBytes / size_bytes, kLeast, kMost);
}

absl::StatusOr<BenchResult> Bench(const BenchOptions& options, const ClientOptions& client_options,
                                  const std::function<bool(double)>& watch) {
  BenchOptions filled = options;
  if (filled.keys == 0) filled.keys = DefaultKeys(options.op, options.size_bytes);
  const Workload load = MakeWorkload(filled);

  std::vector<Worker> workers;
  for (int i = 0; i < options.clients; ++i) {
    ASSIGN_OR_RETURN(auto client, Client::Connect(client_options));
    // Connected before the clock runs.
    RETURN_IF_ERROR(client->Ping());
    workers.emplace_back(load, std::move(client), i * load.keys.size() / options.clients);
  }
  Client& client = workers.front().client();
  const absl::Status stored = StoreAll(client, load);
  BenchResult result;
  if (stored.ok()) result = Measure(workers, options.seconds, watch);
  const absl::Status deleted = DeleteAll(client, load);
  RETURN_IF_ERROR(stored);
  RETURN_IF_ERROR(deleted);
  return result;
}

}  // namespace infercache::cli
