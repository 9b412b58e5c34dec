// What depends on the pages that an arena is made of, for each kind that the machine has: how long
// a daemon takes until it serves, and what the first touch of a mapping costs.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/compare/cases.h"
#include "bench/compare/local_client.h"
#include "bench/compare/own_daemon.h"

namespace infercache::bench {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kHugePageBytes = 2 * kMiB;
constexpr double kGiB = 1 << 30;

constexpr const char* kPageKinds[] = {"4k", "thp", "hugetlb"};

std::string Contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Why an arena of `bytes` cannot be made of such pages here; empty if it can.
std::string WhyNot(std::string_view kind, uint64_t bytes) {
  if (kind == "thp") {
    const std::string setting = Contents("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    for (const std::string_view off : {"[never]", "[deny]"}) {
      if (setting.find(off) != std::string::npos) {
        return absl::StrCat("transparent_hugepage/shmem_enabled is ", std::string(off));
      }
    }
    if (setting.empty()) return "the kernel has no transparent huge pages";
  }
  if (kind == "hugetlb") {
    const std::string free = Contents("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    const uint64_t needed = bytes / kHugePageBytes;
    if (std::strtoull(free.c_str(), nullptr, 10) < needed) {
      return absl::StrCat("needs ", needed, " free pages of 2 MiB (vm.nr_hugepages)");
    }
  }
  return "";
}

// Prints a row without numbers, so that what is missing is seen.
void PrintNotMeasured(const Context& context, const std::string& name, const std::string& why) {
  Row row;
  row.name = name;
  row.note = absl::StrCat("NOT MEASURED: ", why);
  context.rows.Print(row);
}

void PrintTimeToReady(const Context& context, const std::string& kind, uint64_t small,
                      uint64_t large) {
  std::vector<double> per_gib, start_up;
  for (int round = 0; round < context.plan.rounds; ++round) {
    const std::string& binary = context.servers.daemon_binary;
    const double base = OwnDaemon(binary, kind, small).start_took().count();
    const double all = OwnDaemon(binary, kind, large).start_took().count();
    start_up.push_back(base);
    per_gib.push_back((all - base) / (static_cast<double>(large - small) / kGiB));
  }
  std::sort(per_gib.begin(), per_gib.end());
  std::sort(start_up.begin(), start_up.end());
  const size_t middle = per_gib.size() / 2;
  Row row;
  row.name = absl::StrCat("ready/", kind);
  row.ours = per_gib[middle] * 1000;
  row.unit = "ms/GiB";
  row.note =
      absl::StrFormat("%.0f-%.0f ms; %.0f ms more to start with 16 MiB", per_gib.front() * 1000,
                      per_gib.back() * 1000, start_up[middle] * 1000);
  context.rows.Print(row);
}

// A put in place by a client that has just connected, beside the same through a warm mapping.
void PrintFirstTouch(const Context& context, const std::string& kind, uint64_t arena_bytes) {
  const OwnDaemon daemon(context.servers.daemon_binary, kind, arena_bytes);
  const std::string value(kMiB, 'v');
  LocalClient warm(daemon.endpoint());
  warm.WarmUp(value, 2 * arena_bytes / kMiB);
  const std::vector<Side> sides = {{"first",
                                    [&] {
                                      LocalClient client(daemon.endpoint());
                                      client.Put("first-touch",
                                                 "the session is open and its segments are mapped");
                                      const auto start = std::chrono::steady_clock::now();
                                      client.PutInPlace("first-touch", value);
                                      return Nanoseconds(std::chrono::steady_clock::now() - start);
                                    }},
                                   {"warm", Timed([&] { warm.PutInPlace("first-touch", value); })}};
  const auto measured = Measured::TakeIdle(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare(absl::StrCat("local_first_touch/", kind), {1}, std::nullopt));
}

}  // namespace

void TimeToReady(const Context& context) {
  const uint64_t small = 16 * kMiB;
  const uint64_t large = (context.plan.quick ? 128 : 2048) * kMiB;
  for (const std::string kind : kPageKinds) {
    const std::string why_not = WhyNot(kind, large);
    why_not.empty() ? PrintTimeToReady(context, kind, small, large)
                    : PrintNotMeasured(context, absl::StrCat("ready/", kind), why_not);
  }
}

void LocalFirstTouch(const Context& context) {
  const uint64_t arena_bytes = 64 * kMiB;
  for (const std::string kind : kPageKinds) {
    const std::string why_not = WhyNot(kind, arena_bytes);
    why_not.empty() ? PrintFirstTouch(context, kind, arena_bytes)
                    : PrintNotMeasured(context, absl::StrCat("local_first_touch/", kind), why_not);
  }
}

}  // namespace infercache::bench
