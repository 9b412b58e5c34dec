// Where the kernel keeps the limits of a process's cgroup, version 1 or 2.

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace infercache {

struct CgroupDirectory {
  std::string path;
  bool version2 = false;
};

// The directories of a process's group for `controller`, as version 1 calls it ("memory"), and of
// the groups above it, the innermost first. `groups` is what /proc/PROCESS/cgroup says. Inside a
// container the paths may be the host's: a directory that is not there limits nothing, and the
// mount's root, which comes last, is the container.
std::vector<CgroupDirectory> CgroupDirectories(std::string_view groups,
                                               std::string_view controller);

}  // namespace infercache
