#include "client/cli/doctor_pages.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "client/cli/units.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr uint64_t kArenaPageBytes = uint64_t{2} << 20;  // of hugetlb

// Pages of one size that are set aside for those who ask for them.
struct HugePages {
  uint64_t bytes = 0;  // of one
  uint64_t reserved = 0;
  uint64_t free = 0;
  uint64_t promised = 0;  // of the free ones: mapped already
};

std::vector<HugePages> ReadHugePages(const Machine& machine) {
  constexpr char kDirectory[] = "/sys/kernel/mm/hugepages";
  constexpr std::string_view kPrefix = "hugepages-", kSuffix = "kB";
  std::vector<HugePages> sizes;
  for (const std::string& name : machine.List(kDirectory)) {
    uint64_t kib = 0;
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) ||
        !absl::SimpleAtoi(
            name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()), &kib)) {
      continue;
    }
    const auto read = [&](const char* file, uint64_t& number) {
      const auto text = machine.Read(fmt::format("{}/{}/{}", kDirectory, name, file));
      return text.ok() && absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number);
    };
    HugePages pages{.bytes = kib * 1024};
    if (!read("nr_hugepages", pages.reserved) || !read("free_hugepages", pages.free)) continue;
    read("resv_hugepages", pages.promised);
    sizes.push_back(pages);
  }
  return sizes;
}

// Whether what the daemon has of them and those that nobody has are as many as its capacity takes.
Finding HugetlbForCapacity(const char* check, const HugePages& pages, const Subject& subject,
                           const std::string& reserved) {
  const uint64_t needed = (*subject.capacity_bytes + kArenaPageBytes - 1) / kArenaPageBytes;
  const uint64_t to_be_had =
      subject.hugetlb_bytes / kArenaPageBytes + pages.free - std::min(pages.free, pages.promised);
  const std::string found = fmt::format(
      "{}; arena_pages is hugetlb, and the capacity takes {} pages of 2 MiB", reserved, needed);
  if (to_be_had >= needed) return {check, Level::kOk, found};
  return {check, Level::kWarn, found,
          fmt::format("as root: sysctl -w vm.nr_hugepages={}, and the same line in a file of "
                      "/etc/sysctl.d; until then namespaces that need more than {} pages cannot "
                      "be made",
                      pages.reserved + needed - to_be_had, to_be_had)};
}

}  // namespace

Finding CheckTransparentHugePages(const Machine& machine) {
  constexpr char kCheck[] = "thp";
  constexpr char kPath[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  const auto text = machine.Read(kPath);
  if (absl::IsNotFound(text.status())) {
    return {kCheck, Level::kWarn, "this kernel has no transparent huge pages",
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE: with 4 KiB pages, a process that maps "
            "the cache pays for 262,144 page faults and 2 MiB of page tables per GiB"};
  }
  if (!text.ok()) return UnknownFinding(kCheck, text.status());
  const size_t open = text->find('['), close = text->find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) {
    return UnknownFinding(kCheck, absl::DataLossError(fmt::format("{} selects nothing", kPath)));
  }
  const std::string selected = text->substr(open + 1, close - open - 1);
  // The daemon asks for them, which is enough for "advise".
  if (selected != "never" && selected != "deny") {
    return {kCheck, Level::kOk, fmt::format("shared memory gets huge pages ({})", selected)};
  }
  return {kCheck, Level::kWarn,
          fmt::format("shared memory gets 4 KiB pages only (shmem_enabled is {})", selected),
          fmt::format("as root: echo advise > {}; then start the daemon again. It saves page "
                      "faults and page tables in every process that maps the cache",
                      kPath)};
}

Finding CheckHugetlb(const Machine& machine, const Subject& subject) {
  constexpr char kCheck[] = "hugetlb";
  HugePages arena_pages;
  std::vector<std::string> kinds;
  for (const HugePages& pages : ReadHugePages(machine)) {
    if (pages.bytes == kArenaPageBytes) arena_pages = pages;
    if (pages.reserved == 0) continue;
    kinds.push_back(fmt::format("{} pages of {}, {} of them free", pages.reserved,
                                FormatSize(static_cast<double>(pages.bytes)), pages.free));
  }
  const std::string reserved =
      kinds.empty() ? "no huge pages are reserved" : absl::StrJoin(kinds, "; ");
  if (subject.arena_pages == "hugetlb" && subject.capacity_bytes) {
    return HugetlbForCapacity(kCheck, arena_pages, subject, reserved);
  }
  if (kinds.empty()) return {kCheck, Level::kOk, reserved};
  return {kCheck, Level::kOk,
          fmt::format("{}; arena_pages takes pages of 2 MiB at the daemon's start", reserved)};
}

}  // namespace infercache::cli
