// How full an arena stays: log-uniform sizes from 1 KiB to 16 MiB, one third puts, two thirds
// touches of what is there. Prints the mean and the lowest utilisation, counted in bytes of values
// (rounding is waste), after every put once the arena has been full.
//
//   infercache_utilisation [--arena SIZE] [--turnover N] [-o text|json]
//
// SIZE ends in M or G, default 4G; N arenas of values are put after it is full, default 20. The
// targets (mean 95 %, minimum 85 %) hold for an arena of 4 GiB or more; exits with 1 if one is
// missed.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "bench/compare/row.h"
#include "common/clock.h"
#include "common/fingerprint.h"
#include "server/store/store.h"

namespace infercache::store {
namespace {

constexpr uint64_t kMinBytes = 1024;
constexpr uint64_t kMaxBytes = uint64_t{16} << 20;

// Counts the bytes of the values that are there.
class LiveBytes final : public Observer {
 public:
  void OnEvent(const Event& event) override {
    if (event.kind == EventKind::kStored) {
      bytes_ += event.size_bytes;
    } else {
      bytes_ -= event.size_bytes;
    }
  }
  uint64_t bytes() const { return bytes_; }

 private:
  std::atomic<uint64_t> bytes_{0};
};

struct Options {
  uint64_t arena_bytes = uint64_t{4} << 30;
  double turnover = 20;
  bench::Output output = bench::Output::kText;
};

struct Result {
  double mean = 0, lowest = 1;
  uint64_t puts = 0, refused = 0, samples = 0;
};

uint64_t ParseSize(const char* text) {
  char* end = nullptr;
  const uint64_t n = std::strtoull(text, &end, 10);
  if (std::strcmp(end, "G") == 0) return n << 30;
  if (std::strcmp(end, "M") == 0) return n << 20;
  std::fprintf(stderr, "size '%s': write it as 512M or 4G\n", text);
  std::exit(2);
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "-o") == 0 && has_value) {
      const bool json = std::strcmp(argv[++i], "json") == 0;
      options.output = json ? bench::Output::kJson : bench::Output::kText;
    } else if (std::strcmp(argv[i], "--arena") == 0 && has_value) {
      options.arena_bytes = ParseSize(argv[++i]);
    } else if (std::strcmp(argv[i], "--turnover") == 0 && has_value) {
      options.turnover = std::atof(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: %s [--arena SIZE] [--turnover N] [-o text|json]\n", argv[0]);
      std::exit(2);
    }
  }
  if (options.arena_bytes < 8 * kMaxBytes || !(options.turnover > 0)) {
    std::fprintf(stderr, "the arena must hold at least 8 of the largest objects (128M)\n");
    std::exit(2);
  }
  return options;
}

class Workload {
 public:
  explicit Workload(const Options& options)
      : options_(options),
        store_({.capacity_bytes = options.arena_bytes, .background = true}, clock_, &live_) {
    NamespaceSpec spec;
    spec.name = "utilisation";
    spec.quota_bytes = options.arena_bytes;
    auto created = store_.CreateNamespace(spec);
    if (!created.ok()) {
      std::fprintf(stderr, "%s\n", created.status().ToString().c_str());
      std::exit(1);
    }
    ns_ = *std::move(created);
  }

  Result Run() {
    while (ns_->Stats().evicted == 0) PutOne();
    result_ = {};
    const double until = options_.turnover * static_cast<double>(options_.arena_bytes);
    double sum = 0;
    for (double put = 0; put < until; ++result_.samples) {
      put += static_cast<double>(PutOne());
      TouchOne();
      TouchOne();
      const double now =
          static_cast<double>(live_.bytes()) / static_cast<double>(options_.arena_bytes);
      sum += now;
      result_.lowest = std::min(result_.lowest, now);
    }
    result_.mean = sum / static_cast<double>(result_.samples);
    return result_;
  }

 private:
  static std::string KeyOf(uint64_t i) { return "object:" + std::to_string(i); }

  uint64_t PutOne() {
    std::uniform_real_distribution<double> exponent(std::log(kMinBytes), std::log(kMaxBytes));
    const auto size = static_cast<uint64_t>(std::exp(exponent(random_)));
    const std::string key = KeyOf(next_++);
    PutSpec put;
    put.id = {key, fingerprint_};
    put.size_bytes = size;
    auto reserved = ns_->Reserve(put);
    ++result_.puts;
    if (!reserved.ok()) {
      ++result_.refused;
    } else if (!ns_->Commit(**std::move(reserved)).ok()) {
      std::fprintf(stderr, "commit failed\n");
      std::exit(1);
    }
    return size;
  }
  // A random one of those that are there; young ones are, old ones may be.
  void TouchOne() {
    const uint64_t objects = std::max<uint64_t>(ns_->Stats().objects, 1);
    for (int attempt = 0; attempt < 100; ++attempt) {
      const uint64_t age = random_() % (2 * objects);
      if (age < next_ && ns_->Probe({KeyOf(next_ - 1 - age), fingerprint_}, /*touch=*/true)) return;
    }
  }

  const Options options_;
  const MonotonicClock clock_;
  const Hash128 fingerprint_ = Fingerprint().hash();
  LiveBytes live_;
  Store store_;
  std::shared_ptr<Namespace> ns_;
  std::mt19937_64 random_{42};
  uint64_t next_ = 0;
  Result result_;
};

bench::Row MakeRow(const std::string& name, double share, double target, const Result& result,
                   const Options& options) {
  bench::Row row;
  row.name = name;
  row.ours = 100 * share;
  row.unit = "%";
  row.target = absl::StrCat(">= ", 100 * target);
  if (options.arena_bytes >= uint64_t{4} << 30) row.ok = share >= target;
  row.note = absl::StrCat("arena of ", options.arena_bytes >> 20, " MiB, ", result.puts, " puts, ",
                          result.refused, " refused");
  return row;
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  const Result result = Workload(options).Run();
  bench::RowPrinter rows(options.output);
  rows.Print(MakeRow("utilisation/mean", result.mean, 0.95, result, options));
  rows.Print(MakeRow("utilisation/min", result.lowest, 0.85, result, options));
  return rows.missed() ? 1 : 0;
}

}  // namespace
}  // namespace infercache::store

int main(int argc, char** argv) { return infercache::store::Main(argc, argv); }
