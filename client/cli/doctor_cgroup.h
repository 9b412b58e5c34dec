// Limits of a process's cgroup, version 1 or 2.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/doctor_machine.h"

namespace infercache::cli {

struct CgroupLimit {
  double value = 0;
  std::string path;  // of the file that says so
};

// The least memory limit of the group and those above it, in bytes, that of memory.high included,
// above which the kernel slows a group down; nothing if none limits. Errors:
// /proc/PROCESS/cgroup cannot be read.
absl::StatusOr<std::optional<CgroupLimit>> CgroupMemoryLimit(const Machine& machine,
                                                             const std::string& process);
// The same for CPU time, in CPUs.
absl::StatusOr<std::optional<CgroupLimit>> CgroupCpuLimit(const Machine& machine,
                                                          const std::string& process);

}  // namespace infercache::cli
