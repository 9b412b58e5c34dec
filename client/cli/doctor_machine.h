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

#include "absl/status/status.h"
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

// Whose limits count, and what they must be enough for.
struct Subject {
  std::string process = "self";  // directory below /proc
  bool is_daemon = false;        // `process` is the daemon, not this program in its place
  // Of a daemon on this machine, if it told.
  std::optional<uint64_t> capacity_bytes = {};
  std::string arena_pages = {};  // as configured
  bool lock_memory = false;
  uint64_t hugetlb_bytes = 0;  // what its arenas have of huge pages
};

// The daemon with that process id if this machine shows it there, else this process: a daemon in
// another container has a number that means something else, or nothing, here.
Subject FindSubject(const Machine& machine, uint32_t daemon_pid);

// What a probe says where a file cannot be read.
Finding UnknownFinding(const char* check, const absl::Status& status);

// The limit on locked memory, against the capacity where arenas are locked.
Finding CheckMemoryLock(const Machine& machine, const Subject& subject);
Finding CheckFileDescriptors(const Machine& machine, const Subject& subject);
Finding CheckMemory(const Machine& machine, const Subject& subject);
// The least limit of the process's cgroup and those above it, version 1 or 2.
Finding CheckCgroupMemory(const Machine& machine, const Subject& subject);
Finding CheckSwap(const Machine& machine);
Finding CheckOvercommit(const Machine& machine);
Finding CheckCpus(const Machine& machine, const Subject& subject);
Finding CheckContainer(const Machine& machine);

// All of the above and of doctor_pages.h.
std::vector<Finding> CheckMachine(const Machine& machine, const Subject& subject);

}  // namespace infercache::cli
