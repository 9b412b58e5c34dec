#include "client/cli/doctor_machine.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "client/cli/doctor_cgroup.h"
#include "client/cli/doctor_pages.h"
#include "client/cli/file_io.h"
#include "client/cli/units.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr char kDaemonName[] = "infercached";
constexpr uint64_t kUnlimited = UINT64_MAX;
// For a daemon that was not configured otherwise: two for each of grpc.max_connections, four for
// each of local.max_sessions and some connections beyond them, and its own.
constexpr uint64_t kEnoughDescriptors =
    2 * 4096 + 4 * (4096 + uint64_t{kMaxConnectionsBeyondSessions}) + 1024;
// What the kernel, the daemon's own memory and everything else need beside the cached bytes.
constexpr double kUsableShare = 0.9;

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

std::string Stripped(const std::string& text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

std::string LimitText(uint64_t value) {
  return value == kUnlimited ? "unlimited" : FormatSize(static_cast<double>(value));
}

// The soft limit of that name in /proc/PROCESS/limits.
absl::StatusOr<uint64_t> ProcessLimit(const Machine& machine, const std::string& process,
                                      std::string_view name) {
  const std::string path = fmt::format("/proc/{}/limits", process);
  ASSIGN_OR_RETURN(const std::string text, machine.Read(path));
  for (const std::string& line : Lines(text)) {
    if (!line.starts_with(name)) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line.substr(name.size()), ' ', absl::SkipEmpty());
    uint64_t value = 0;
    if (words.empty()) break;
    if (words[0] == "unlimited") return kUnlimited;
    if (absl::SimpleAtoi(words[0], &value)) return value;
  }
  return absl::NotFoundError(fmt::format("{} has no \"{}\"", path, name));
}

// The value of a line "Name:   123 kB" of /proc/meminfo.
absl::StatusOr<uint64_t> MeminfoBytes(const Machine& machine, std::string_view name) {
  constexpr char kPath[] = "/proc/meminfo";
  ASSIGN_OR_RETURN(const std::string text, machine.Read(kPath));
  for (const std::string& line : Lines(text)) {
    if (!line.starts_with(fmt::format("{}:", name))) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line.substr(name.size() + 1), ' ', absl::SkipEmpty());
    uint64_t kib = 0;
    if (!words.empty() && absl::SimpleAtoi(words[0], &kib)) return kib * 1024;
  }
  return absl::NotFoundError(fmt::format("{} has no \"{}\"", kPath, name));
}

std::string Whose(const Subject& subject) {
  return subject.is_daemon ? "of the daemon" : "of this process; the daemon's may differ";
}

// How many CPUs a list such as "0-3,8" names.
uint64_t CountOfList(const std::string& list) {
  uint64_t count = 0;
  for (const std::string& range : std::vector<std::string>(absl::StrSplit(list, ','))) {
    const std::vector<std::string> ends = absl::StrSplit(range, '-');
    uint64_t first = 0, last = 0;
    if (absl::SimpleAtoi(ends.front(), &first) && absl::SimpleAtoi(ends.back(), &last)) {
      count += last - first + 1;
    }
  }
  return count;
}

// Whether RLIMIT_MEMLOCK does not bind the process.
bool MayLockBeyondLimit(const Machine& machine, const std::string& process) {
  constexpr std::string_view kEffective = "CapEff:";
  constexpr int kIpcLock = 14;  // CAP_IPC_LOCK
  const auto status = machine.Read(fmt::format("/proc/{}/status", process));
  if (!status.ok()) return false;
  for (const std::string& line : Lines(*status)) {
    uint64_t capabilities = 0;
    if (line.starts_with(kEffective) &&
        absl::SimpleHexAtoi(Stripped(line.substr(kEffective.size())), &capabilities)) {
      return (capabilities >> kIpcLock & 1) != 0;
    }
  }
  return false;
}

}  // namespace

bool Machine::Exists(std::string_view path) const {
  return access((root_ + std::string(path)).c_str(), F_OK) == 0;
}

absl::StatusOr<std::string> Machine::Read(std::string_view path) const {
  return ReadFile(root_ + std::string(path));
}

std::vector<std::string> Machine::List(std::string_view path) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(root_ + std::string(path), error), end;
       !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Subject FindSubject(const Machine& machine, uint32_t daemon_pid) {
  const std::string process = fmt::format("{}", daemon_pid);
  const auto name = machine.Read(fmt::format("/proc/{}/comm", process));
  if (!name.ok() || Stripped(*name) != kDaemonName) return {};
  return {.process = process, .is_daemon = true};
}

Finding UnknownFinding(const char* check, const absl::Status& status) {
  return {check, Level::kWarn, fmt::format("cannot be told: {}", std::string(status.message())),
          "run it where /proc and /sys are mounted, as a user that may read them"};
}

Finding CheckMemoryLock(const Machine& machine, const Subject& subject) {
  constexpr char kCheck[] = "memlock";
  const auto limit = ProcessLimit(machine, subject.process, "Max locked memory");
  if (!limit.ok()) return UnknownFinding(kCheck, limit.status());
  const std::string found = fmt::format("limit {} ({})", LimitText(*limit), Whose(subject));
  // Another process's limit says nothing about the daemon's.
  if (!subject.lock_memory || !subject.is_daemon || !subject.capacity_bytes) {
    return {kCheck, Level::kOk, found + "; lock_memory needs the capacity"};
  }
  if (*limit >= *subject.capacity_bytes) {
    return {kCheck, Level::kOk, found + "; lock_memory is on, it is enough"};
  }
  if (MayLockBeyondLimit(machine, subject.process)) {
    return {kCheck, Level::kOk, found + "; lock_memory is on, CAP_IPC_LOCK locks beyond it"};
  }
  return {kCheck, Level::kWarn,
          fmt::format("{}; lock_memory is on, and the daemon may cache {}", found,
                      FormatSize(static_cast<double>(*subject.capacity_bytes))),
          "namespaces beyond it cannot be made: give the service LimitMEMLOCK=infinity (systemctl "
          "edit infercached), a container --ulimit memlock=-1, and start the daemon again"};
}

Finding CheckFileDescriptors(const Machine& machine, const Subject& subject) {
  constexpr char kCheck[] = "file_descriptors";
  const auto limit = ProcessLimit(machine, subject.process, "Max open files");
  if (!limit.ok()) return UnknownFinding(kCheck, limit.status());
  const std::string text = *limit == kUnlimited ? "unlimited" : fmt::format("{}", *limit);
  const std::string found = fmt::format("limit {} ({})", text, Whose(subject));
  if (*limit >= kEnoughDescriptors) return {kCheck, Level::kOk, found};
  return {kCheck, Level::kWarn, found,
          fmt::format("a gRPC connection takes two and a session of the same-host lane four; "
                      "grpc.max_connections and local.max_sessions are 4096 unless set: raise the "
                      "limit to {} (LimitNOFILE= of the service, ulimit -n) or lower them",
                      kEnoughDescriptors)};
}

Finding CheckMemory(const Machine& machine, const Subject& subject) {
  constexpr char kCheck[] = "memory";
  const auto total = MeminfoBytes(machine, "MemTotal");
  if (!total.ok()) return UnknownFinding(kCheck, total.status());
  const auto available = MeminfoBytes(machine, "MemAvailable");
  const double total_bytes = static_cast<double>(*total);
  std::string found = fmt::format("{} of RAM", FormatSize(total_bytes));
  if (available.ok()) {
    found += fmt::format(", {} available", FormatSize(static_cast<double>(*available)));
  }
  if (!subject.capacity_bytes) return {kCheck, Level::kOk, found + "; capacity not known"};
  const double capacity = static_cast<double>(*subject.capacity_bytes);
  found += fmt::format("; the daemon may cache {}", FormatSize(capacity));
  const std::string advice =
      fmt::format("start the daemon with a smaller --capacity: at most {} here",
                  FormatSize(total_bytes * kUsableShare));
  if (capacity > total_bytes) return {kCheck, Level::kFail, found, advice};
  if (capacity > total_bytes * kUsableShare) return {kCheck, Level::kWarn, found, advice};
  return {kCheck, Level::kOk, found};
}

Finding CheckCgroupMemory(const Machine& machine, const Subject& subject) {
  constexpr char kCheck[] = "cgroup_memory";
  const auto limit = CgroupMemoryLimit(machine, subject.process);
  if (!limit.ok()) return UnknownFinding(kCheck, limit.status());
  if (!limit->has_value()) {
    return {kCheck, Level::kOk, fmt::format("no limit ({})", Whose(subject))};
  }
  const double bytes = (*limit)->value;
  std::string found =
      fmt::format("limit {} in {} ({})", FormatSize(bytes), (*limit)->path, Whose(subject));
  // Another process's capacity says nothing about this one's group.
  if (!subject.is_daemon || !subject.capacity_bytes) return {kCheck, Level::kOk, found};
  const double capacity = static_cast<double>(*subject.capacity_bytes);
  found += fmt::format("; the daemon may cache {}", FormatSize(capacity));
  const bool high = (*limit)->path.ends_with("/memory.high");
  const std::string advice = fmt::format(
      "cached bytes count against this limit, and beyond it the kernel {} the daemon: raise it "
      "to at least {} ({}) or lower --capacity to {}",
      high ? "throttles" : "kills", FormatSize(capacity / kUsableShare),
      high ? "MemoryHigh=" : "docker run --memory, MemoryMax=", FormatSize(bytes * kUsableShare));
  if (capacity > bytes) return {kCheck, Level::kFail, found, advice};
  if (capacity > bytes * kUsableShare) return {kCheck, Level::kWarn, found, advice};
  return {kCheck, Level::kOk, found};
}

Finding CheckSwap(const Machine& machine) {
  constexpr char kCheck[] = "swap";
  const auto swap = MeminfoBytes(machine, "SwapTotal");
  if (!swap.ok()) return UnknownFinding(kCheck, swap.status());
  if (*swap == 0) return {kCheck, Level::kOk, "none"};
  return {kCheck, Level::kWarn,
          fmt::format("{} of swap: cached bytes may go to disk, and a hit may wait for it",
                      FormatSize(static_cast<double>(*swap))),
          "keep the daemon out of it: MemorySwapMax=0 of the service, docker run --memory-swap "
          "equal to --memory, or swapoff -a"};
}

Finding CheckOvercommit(const Machine& machine) {
  constexpr char kCheck[] = "overcommit";
  constexpr char kPath[] = "/proc/sys/vm/overcommit_memory";
  const auto text = machine.Read(kPath);
  if (!text.ok()) return UnknownFinding(kCheck, text.status());
  const std::string mode = Stripped(*text);
  if (mode == "0" || mode == "1") {
    return {kCheck, Level::kOk, fmt::format("vm.overcommit_memory is {}", mode)};
  }
  const auto limit = MeminfoBytes(machine, "CommitLimit");
  const auto used = MeminfoBytes(machine, "Committed_AS");
  std::string found = fmt::format("vm.overcommit_memory is {}", mode);
  if (limit.ok() && used.ok()) {
    found += fmt::format(": {} of {} are spoken for", FormatSize(static_cast<double>(*used)),
                         FormatSize(static_cast<double>(*limit)));
  }
  return {kCheck, Level::kWarn, found,
          "memory can be refused while RAM is free: set vm.overcommit_memory to 0, or raise "
          "vm.overcommit_ratio"};
}

Finding CheckCpus(const Machine& machine, const Subject& subject) {
  constexpr char kCheck[] = "cpus";
  constexpr std::string_view kAllowed = "Cpus_allowed_list:";
  const std::string path = fmt::format("/proc/{}/status", subject.process);
  const auto status = machine.Read(path);
  if (!status.ok()) return UnknownFinding(kCheck, status.status());
  uint64_t allowed = 0;
  for (const std::string& line : Lines(*status)) {
    if (line.starts_with(kAllowed)) {
      allowed = CountOfList(Stripped(line.substr(kAllowed.size())));
    }
  }
  if (allowed == 0) {
    return UnknownFinding(kCheck, absl::NotFoundError(fmt::format("{} has no {}", path, kAllowed)));
  }
  const auto quota = CgroupCpuLimit(machine, subject.process);
  double usable = static_cast<double>(allowed);
  std::string found = fmt::format("{} CPUs may be used", allowed);
  if (quota.ok() && quota->has_value()) {
    usable = std::min(usable, (*quota)->value);
    found += fmt::format(", {:.3g} CPUs of time by {}", (*quota)->value, (*quota)->path);
  }
  found += fmt::format(" ({})", Whose(subject));
  if (usable >= 2) return {kCheck, Level::kOk, found};
  return {kCheck, Level::kWarn, found,
          "give the daemon at least 2: with less, calls wait for each other and for housekeeping"};
}

Finding CheckContainer(const Machine& machine) {
  static constexpr char kCheck[] = "container";
  const auto found = [](std::string_view kind) {
    return Finding{kCheck, Level::kOk,
                   fmt::format("this process runs in a container ({}); the size of /dev/shm does "
                               "not matter, the cache uses memfds",
                               kind)};
  };
  if (machine.Exists("/.dockerenv")) return found("docker");
  if (machine.Exists("/run/.containerenv")) return found("podman");
  if (const auto kind = machine.Read("/run/systemd/container"); kind.ok()) {
    return found(Stripped(*kind));
  }
  if (const auto groups = machine.Read("/proc/1/cgroup"); groups.ok()) {
    for (const char* mark : {"kubepods", "docker", "containerd", "libpod", "lxc"}) {
      if (groups->find(mark) != std::string::npos) return found(mark);
    }
  }
  return {kCheck, Level::kOk, "this process runs in no container that can be seen from here"};
}

std::vector<Finding> CheckMachine(const Machine& machine, const Subject& subject) {
  return {CheckTransparentHugePages(machine),
          CheckHugetlb(machine, subject),
          CheckMemoryLock(machine, subject),
          CheckFileDescriptors(machine, subject),
          CheckMemory(machine, subject),
          CheckCgroupMemory(machine, subject),
          CheckSwap(machine),
          CheckOvercommit(machine),
          CheckCpus(machine, subject),
          CheckContainer(machine)};
}

}  // namespace infercache::cli
