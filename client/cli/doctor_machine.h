// What the files of /proc and /sys say about the machine, and about the limits of the process that
// caches there: the probes of `infercachectl doctor` that only read.
//
// Every probe returns a finding, also where a file cannot be read: that is a warning that names it.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/doctor_finding.h"

namespace infercache::cli {

// The kernel's files. Constant after construction, thread-safe.
class Machine {
 public:
  // `root` stands before every path; tests give a directory of their own.
  explicit Machine(std::string root = "") : root_(std::move(root)) {}

  bool Exists(std::string_view path) const;
  absl::StatusOr<std::string> Read(std::string_view path) const;
  // The names in a directory, sorted; empty if there is none.
  std::vector<std::string> List(std::string_view path) const;

 private:
  const std::string root_;
};

// Whose limits count, and how much it may cache.
struct Subject {
  std::string process = "self";  // directory below /proc
  bool is_daemon = false;        // `process` is the daemon, not this program in its place
  std::optional<uint64_t> capacity_bytes = {};  // of a daemon on this machine, if it told
};

// The daemon with that process id if this machine shows it there, else this process: a daemon in
// another container has a number that means something else, or nothing, here.
Subject FindSubject(const Machine& machine, uint32_t daemon_pid);

// THP for shared memory, which decides about memfds: /sys/kernel/mm/transparent_hugepage.
Finding CheckTransparentHugePages(const Machine& machine);
Finding CheckHugetlb(const Machine& machine);
Finding CheckMemoryLock(const Machine& machine, const Subject& subject);
Finding CheckFileDescriptors(const Machine& machine, const Subject& subject);
Finding CheckMemory(const Machine& machine, const Subject& subject);
// The least limit of the process's cgroup and those above it, version 1 or 2.
Finding CheckCgroupMemory(const Machine& machine, const Subject& subject);
Finding CheckSwap(const Machine& machine);
Finding CheckOvercommit(const Machine& machine);
Finding CheckCpus(const Machine& machine, const Subject& subject);
Finding CheckContainer(const Machine& machine);

// All of the above.
std::vector<Finding> CheckMachine(const Machine& machine, const Subject& subject);

}  // namespace infercache::cli
