#include "client/cli/doctor_cgroup.h"

#include <functional>
#include <string_view>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/cgroup.h"
#include "common/status_macros.h"

namespace infercache::cli {
namespace {

// Version 1 writes "unlimited" as the largest multiple of the page size.
constexpr uint64_t kUnlimitedBytes = uint64_t{1} << 62;

// Reads the limit in one cgroup directory; nothing if there is none.
using ReadLimit = std::function<std::optional<CgroupLimit>(const std::string& directory)>;

std::optional<uint64_t> ReadNumber(const Machine& machine, const std::string& path) {
  const auto text = machine.Read(path);
  uint64_t number = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number)) return {};
  return number;
}

void Lower(std::optional<CgroupLimit>& least, std::optional<CgroupLimit> limit) {
  if (limit && (!least || limit->value < least->value)) least = std::move(limit);
}

// `controller` as version 1 calls it; `v1` and `v2` read one directory.
absl::StatusOr<std::optional<CgroupLimit>> Least(const Machine& machine, const std::string& process,
                                                 std::string_view controller, const ReadLimit& v1,
                                                 const ReadLimit& v2) {
  ASSIGN_OR_RETURN(const std::string text,
                   machine.Read(absl::StrCat("/proc/", process, "/cgroup")));
  std::optional<CgroupLimit> least;
  for (const CgroupDirectory& group : CgroupDirectories(text, controller)) {
    Lower(least, (group.version2 ? v2 : v1)(group.path));
  }
  return least;
}

}  // namespace

absl::StatusOr<std::optional<CgroupLimit>> CgroupMemoryLimit(const Machine& machine,
                                                             const std::string& process) {
  const auto read = [&machine](const char* file) {
    return [&machine, file](const std::string& directory) -> std::optional<CgroupLimit> {
      const std::string path = absl::StrCat(directory, "/", file);
      const std::optional<uint64_t> bytes = ReadNumber(machine, path);
      if (!bytes || *bytes >= kUnlimitedBytes) return {};
      return CgroupLimit{static_cast<double>(*bytes), path};
    };
  };
  const auto version2 = [max = read("memory.max"),
                         high = read("memory.high")](const std::string& directory) {
    std::optional<CgroupLimit> least = max(directory);
    Lower(least, high(directory));
    return least;
  };
  return Least(machine, process, "memory", read("memory.limit_in_bytes"), version2);
}

absl::StatusOr<std::optional<CgroupLimit>> CgroupCpuLimit(const Machine& machine,
                                                          const std::string& process) {
  const auto v1 = [&machine](const std::string& directory) -> std::optional<CgroupLimit> {
    const std::string path = directory + "/cpu.cfs_quota_us";
    const auto quota = ReadNumber(machine, path);  // -1, which is no number here, without a limit
    const auto period = ReadNumber(machine, directory + "/cpu.cfs_period_us");
    if (!quota || !period || *period == 0) return {};
    return CgroupLimit{static_cast<double>(*quota) / static_cast<double>(*period), path};
  };
  const auto v2 = [&machine](const std::string& directory) -> std::optional<CgroupLimit> {
    const std::string path = directory + "/cpu.max";
    const auto text = machine.Read(path);
    if (!text.ok()) return {};
    const std::vector<std::string> words =
        absl::StrSplit(absl::StripAsciiWhitespace(*text), ' ');  // "max 100000"
    double quota = 0, period = 0;
    if (words.size() != 2 || words[0] == "max" || !absl::SimpleAtod(words[0], &quota) ||
        !absl::SimpleAtod(words[1], &period) || period <= 0) {
      return {};
    }
    return CgroupLimit{quota / period, path};
  };
  return Least(machine, process, "cpu", v1, v2);
}

}  // namespace infercache::cli
