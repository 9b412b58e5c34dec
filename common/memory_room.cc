#include "common/memory_room.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/cgroup.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

// Version 1 writes "unlimited" as the largest multiple of the page size.
constexpr uint64_t kUnlimitedBytes = uint64_t{1} << 62;
// What is left for all else that the process does.
constexpr uint64_t kMarginBytes = uint64_t{8} << 20;
constexpr uint64_t kBytesPerPageTableByte = 512;

// Nothing if there is no such file, or no number in it ("max").
std::optional<uint64_t> NumberIn(const std::string& path) {
  uint64_t number = 0;
  if (!(std::ifstream(path) >> number)) return std::nullopt;
  return number;
}

// The sum of the lines "NAME VALUE" (or "NAME: VALUE") of these names; nothing if there is none.
template <size_t kNames>
std::optional<uint64_t> SumOf(const std::string& path, const char* const (&names)[kNames]) {
  std::optional<uint64_t> sum;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t value = 0;
    if (!(words >> name >> value)) continue;
    if (std::find(std::begin(names), std::end(names), name) == std::end(names)) continue;
    sum = sum.value_or(0) + value;
  }
  return sum;
}

struct Limit {
  uint64_t bytes = kUnlimitedBytes;
  const char* file = "";
};

// Above memory.high the kernel ends nobody, but whoever takes memory there waits while it looks for
// some to have back, and of shared memory there is none without swap.
Limit LimitOf(const std::string& directory, bool version2) {
  Limit least;
  const auto take = [&](const char* file) {
    const uint64_t bytes = NumberIn(directory + file).value_or(kUnlimitedBytes);
    if (bytes < least.bytes) least = {bytes, file};
  };
  if (version2) {
    take("/memory.max");
    take("/memory.high");
  } else {
    take("/memory.limit_in_bytes");
  }
  return least;
}

absl::Status CheckGroup(const std::string& root, const CgroupDirectory& group, uint64_t bytes) {
  const char* const used_file = group.version2 ? "/memory.current" : "/memory.usage_in_bytes";
  const std::string directory = root + group.path;
  const Limit limit = LimitOf(directory, group.version2);
  if (limit.bytes >= kUnlimitedBytes) return absl::OkStatus();
  const uint64_t used = NumberIn(directory + used_file).value_or(0);
  // Not "cache" or "file", of which memfds are a part, that the kernel cannot have back.
  const std::string stat = directory + "/memory.stat";
  const uint64_t cache =
      (group.version2 ? SumOf(stat, {"active_file", "inactive_file", "slab_reclaimable"})
                      : SumOf(stat, {"total_active_file", "total_inactive_file"}))
          .value_or(0);
  const uint64_t taken = used - std::min(used, cache);
  if (taken <= limit.bytes && bytes <= limit.bytes - taken) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(bytes, " bytes more do not fit into the cgroup: ", group.path, limit.file,
                   " is ", limit.bytes, ", of which ", used, " are in use (", std::min(used, cache),
                   " by what can be given back)"));
}

absl::Status CheckMachine(const std::string& root, uint64_t bytes) {
  const auto kib = SumOf(root + "/proc/meminfo", {"MemAvailable:", "SwapFree:"});
  if (!kib.has_value() || bytes / 1024 <= *kib) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      bytes, " bytes more do not fit into the machine's memory: ", *kib, " KiB are available"));
}

}  // namespace

absl::Status MemoryRoom::Check(uint64_t bytes) const {
  bytes += bytes / kBytesPerPageTableByte + kMarginBytes;
  std::ostringstream groups;
  groups << std::ifstream(root_ + "/proc/self/cgroup").rdbuf();
  for (const CgroupDirectory& group : CgroupDirectories(groups.str(), "memory")) {
    RETURN_IF_ERROR(CheckGroup(root_, group, bytes));
  }
  return CheckMachine(root_, bytes);
}

}  // namespace infercache
