#include "common/cgroup.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/absl_view.h"

namespace infercache {
namespace {

constexpr char kMount[] = "/sys/fs/cgroup";

void AddUpwards(const std::string& mount, std::string path, bool version2,
                std::vector<CgroupDirectory>* directories) {
  while (true) {
    while (path.ends_with('/')) path.pop_back();
    directories->push_back({mount + path, version2});
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return;
    path.erase(slash);
  }
}

}  // namespace

std::vector<CgroupDirectory> CgroupDirectories(std::string_view groups,
                                               std::string_view controller) {
  std::vector<CgroupDirectory> directories;
  for (const absl::string_view line : absl::StrSplit(AbslView(groups), '\n')) {
    // hierarchy:controllers:path, with no controllers for version 2
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) AddUpwards(kMount, parts[2], /*version2=*/true, &directories);
    for (const absl::string_view name : absl::StrSplit(parts[1], ',')) {
      if (name != AbslView(controller)) continue;
      AddUpwards(absl::StrCat(kMount, "/", name), parts[2], /*version2=*/false, &directories);
    }
  }
  return directories;
}

}  // namespace infercache
