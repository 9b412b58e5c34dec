// Every probe of doctor against a machine made of files, and what it makes of a daemon's answers.

#include <string>
#include <vector>

#include "client/cli/doctor_cgroup.h"
#include "client/cli/doctor_daemon.h"
#include "client/cli/doctor_kernel.h"
#include "client/cli/doctor_machine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/finding_matcher.h"
#include "tests/cli/machine_fixture.h"

namespace infercache::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Whatever is not good comes with what to do about it.
testing::AssertionResult Advises(const Finding& finding) {
  if (finding.level == Level::kOk || !finding.advice.empty()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << finding.check << " gives no advice: " << finding.found;
}

// ---- /proc, /sys ----

TEST_F(DoctorMachine, FindsTheDaemonByItsName) {
  Write("/proc/42/comm", "infercached\n");
  Write("/proc/43/comm", "bash\n");
  EXPECT_EQ(FindSubject(machine(), 42).process, "42");
  EXPECT_TRUE(FindSubject(machine(), 42).is_daemon);
  EXPECT_EQ(FindSubject(machine(), 43).process, "self") << "a number of another container";
  EXPECT_EQ(FindSubject(machine(), 44).process, "self");
  EXPECT_FALSE(FindSubject(machine(), 44).is_daemon);
}

constexpr char kLimits[] =
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max cpu time              unlimited            unlimited            seconds   \n"
    "Max open files            1024                 524288               files     \n"
    "Max locked memory         8388608              8388608              bytes     \n";

TEST_F(DoctorMachine, LimitsOfTheProcess) {
  EXPECT_THAT(CheckMemoryLock(machine(), {}), Is("memlock", Level::kWarn, "/proc/self/limits"));
  Write("/proc/self/limits", kLimits);
  EXPECT_THAT(CheckMemoryLock(machine(), {}), Is("memlock", Level::kOk, "8 MiB (of this process"));
  const Finding few = CheckFileDescriptors(machine(), {});
  EXPECT_THAT(few, Is("file_descriptors", Level::kWarn, "limit 1024"));
  EXPECT_THAT(few.advice, HasSubstr("LimitNOFILE="));

  Write("/proc/42/limits",
        "Max open files   26624  26624  files\nMax locked memory unlimited unlimited bytes\n");
  EXPECT_THAT(CheckFileDescriptors(machine(), Daemon(1)),
              Is("file_descriptors", Level::kOk, "26624 (of the daemon)"));
  EXPECT_THAT(CheckMemoryLock(machine(), Daemon(1)), Is("memlock", Level::kOk, "unlimited"));
  Write("/proc/42/limits", "Max open files   26623  26623  files\n");
  EXPECT_EQ(CheckFileDescriptors(machine(), Daemon(1)).level, Level::kWarn) << "one too few";
  EXPECT_THAT(CheckMemoryLock(machine(), Daemon(1)),
              Is("memlock", Level::kWarn, "has no \"Max locked memory\""));
}

TEST_F(DoctorMachine, LockedMemoryAgainstTheCapacity) {
  Write("/proc/42/limits", "Max locked memory 8388608 8388608 bytes\n");
  Write("/proc/42/status", "Name:\tinfercached\nCapEff:\t0000000000000000\n");
  Subject daemon = Daemon((8 << 20) + 1);
  EXPECT_EQ(CheckMemoryLock(machine(), daemon).level, Level::kOk) << "nothing is locked";
  daemon.lock_memory = true;
  const Finding finding = CheckMemoryLock(machine(), daemon);
  EXPECT_THAT(finding, Is("memlock", Level::kWarn, "limit 8 MiB (of the daemon); lock_memory is"));
  EXPECT_THAT(finding.advice, HasSubstr("LimitMEMLOCK=infinity"));
  EXPECT_THAT(finding.advice, HasSubstr("--ulimit memlock=-1"));
  daemon.capacity_bytes = 8 << 20;
  EXPECT_THAT(CheckMemoryLock(machine(), daemon), Is("memlock", Level::kOk, "it is enough"));

  daemon.capacity_bytes = kGiB;
  Write("/proc/42/status", "CapEff:\t0000000000004000\n");
  EXPECT_THAT(CheckMemoryLock(machine(), daemon), Is("memlock", Level::kOk, "CAP_IPC_LOCK"));
  Write("/proc/42/status", "CapEff:\tffffffffffffbfff\n");
  EXPECT_EQ(CheckMemoryLock(machine(), daemon).level, Level::kWarn) << "every other one";

  // In another container: what this process may lock is no matter.
  Write("/proc/self/limits", kLimits);
  daemon.process = "self";
  daemon.is_daemon = false;
  EXPECT_THAT(CheckMemoryLock(machine(), daemon), Is("memlock", Level::kOk, "of this process"));
}

TEST_F(DoctorMachine, MemoryAgainstTheCapacity) {
  EXPECT_THAT(CheckMemory(machine(), {}), Is("memory", Level::kWarn, "/proc/meminfo"));
  Write("/proc/meminfo", "MemTotal:       10485760 kB\nMemAvailable:    5242880 kB\n");
  EXPECT_THAT(CheckMemory(machine(), {}),
              Is("memory", Level::kOk, "10 GiB of RAM, 5 GiB available; capacity not known"));
  EXPECT_EQ(CheckMemory(machine(), Daemon(9 * kGiB)).level, Level::kOk);
  EXPECT_EQ(CheckMemory(machine(), Daemon(9 * kGiB + 4096)).level, Level::kWarn);
  EXPECT_EQ(CheckMemory(machine(), Daemon(10 * kGiB)).level, Level::kWarn);
  const Finding more = CheckMemory(machine(), Daemon(10 * kGiB + 4096));
  EXPECT_EQ(more.level, Level::kFail);
  EXPECT_THAT(more.advice, HasSubstr("--capacity: at most 9 GiB"));
}

TEST_F(DoctorMachine, CgroupVersion2TakesTheLeastLimitUpwards) {
  Write("/proc/42/cgroup", "0::/system.slice/infercached.service\n");
  EXPECT_THAT(CheckCgroupMemory(machine(), Daemon(kGiB)),
              Is("cgroup_memory", Level::kOk, "no limit"));
  const std::string mount = "/sys/fs/cgroup";
  Write(mount + "/system.slice/infercached.service/memory.max", "max\n");
  EXPECT_EQ(CheckCgroupMemory(machine(), Daemon(kGiB)).found, "no limit (of the daemon)");
  Write(mount + "/system.slice/infercached.service/memory.max", "4294967296\n");
  Write(mount + "/system.slice/memory.max", "2147483648\n");
  const Finding finding = CheckCgroupMemory(machine(), Daemon(kGiB));
  EXPECT_THAT(finding, Is("cgroup_memory", Level::kOk,
                          "limit 2 GiB in /sys/fs/cgroup/system.slice/memory.max"));
  EXPECT_EQ(CheckCgroupMemory(machine(), Daemon(2 * kGiB)).level, Level::kWarn);
  const Finding killed = CheckCgroupMemory(machine(), Daemon(2 * kGiB + 4096));
  EXPECT_EQ(killed.level, Level::kFail);
  EXPECT_THAT(killed.advice, HasSubstr("the kernel kills the daemon"));
  Write(mount + "/system.slice/infercached.service/memory.high", "1073741824\n");
  const Finding throttled = CheckCgroupMemory(machine(), Daemon(2 * kGiB));
  EXPECT_THAT(throttled.found, HasSubstr("infercached.service/memory.high"));
  EXPECT_EQ(throttled.level, Level::kFail);
  EXPECT_THAT(throttled.advice, HasSubstr("the kernel throttles the daemon"));
}

TEST_F(DoctorMachine, CgroupOfAnotherProcessIsNotComparedWithTheCapacity) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "1048576\n");
  EXPECT_EQ(CheckCgroupMemory(machine(), {.capacity_bytes = kGiB}).level, Level::kOk);
}

TEST_F(DoctorMachine, CgroupVersion1InAContainerThatSeesTheHostsPath) {
  Write("/proc/42/cgroup", "5:memory:/docker/abc\n4:cpuacct,cpu:/docker/abc\n0::/\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(CheckCgroupMemory(machine(), Daemon(kGiB)).found, "no limit (of the daemon)");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
  EXPECT_EQ(CheckCgroupMemory(machine(), Daemon(kGiB)).level, Level::kFail);

  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(*CgroupCpuLimit(machine(), "42"), std::nullopt);
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
  ASSERT_TRUE(CgroupCpuLimit(machine(), "42")->has_value());
  EXPECT_DOUBLE_EQ((*CgroupCpuLimit(machine(), "42"))->value, 1.5);
}

TEST_F(DoctorMachine, SwapAndOvercommit) {
  EXPECT_EQ(CheckSwap(machine()).level, Level::kWarn) << "no file";
  Write("/proc/meminfo", "SwapTotal: 0 kB\nCommitLimit: 1048576 kB\nCommitted_AS: 524288 kB\n");
  EXPECT_THAT(CheckSwap(machine()), Is("swap", Level::kOk, "none"));
  Write("/proc/sys/vm/overcommit_memory", "0\n");
  EXPECT_EQ(CheckOvercommit(machine()).level, Level::kOk);
  Write("/proc/sys/vm/overcommit_memory", "2\n");
  EXPECT_THAT(CheckOvercommit(machine()),
              Is("overcommit", Level::kWarn, "512 MiB of 1 GiB are spoken for"));
  Write("/proc/meminfo", "SwapTotal: 1048576 kB\n");
  EXPECT_THAT(CheckSwap(machine()), Is("swap", Level::kWarn, "1 GiB of swap"));
}

TEST_F(DoctorMachine, Cpus) {
  EXPECT_THAT(CheckCpus(machine(), {}), Is("cpus", Level::kWarn, "/proc/self/status"));
  Write("/proc/self/status", "Name:\tx\nCpus_allowed:\tf0f\nCpus_allowed_list:\t0-3,8-11\n");
  EXPECT_THAT(CheckCpus(machine(), {}), Is("cpus", Level::kOk, "8 CPUs may be used (of this"));
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(CheckCpus(machine(), {}).level, Level::kOk);
  Write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_THAT(CheckCpus(machine(), {}), Is("cpus", Level::kWarn, "1.5 CPUs of time"));
  Write("/proc/self/status", "Cpus_allowed_list:\t3\n");
  EXPECT_THAT(CheckCpus(machine(), {}), Is("cpus", Level::kWarn, "1 CPUs may be used"));
}

TEST_F(DoctorMachine, Container) {
  EXPECT_THAT(CheckContainer(machine()).found, HasSubstr("no container"));
  Write("/proc/1/cgroup", "0::/init.scope\n");
  EXPECT_THAT(CheckContainer(machine()).found, HasSubstr("no container"));
  Write("/proc/1/cgroup", "0::/kubepods.slice/pod1\n");
  EXPECT_THAT(CheckContainer(machine()).found, HasSubstr("(kubepods)"));
  Write("/run/systemd/container", "systemd-nspawn\n");
  EXPECT_THAT(CheckContainer(machine()).found, HasSubstr("(systemd-nspawn)"));
  Write("/.dockerenv", "");
  EXPECT_THAT(CheckContainer(machine()), Is("container", Level::kOk, "(docker)"));
}

TEST_F(DoctorMachine, AnEmptyMachineGivesOneFindingACheckAndNoFailure) {
  const std::vector<Finding> findings = CheckMachine(machine(), {});
  EXPECT_EQ(findings.size(), 10u);
  for (const Finding& finding : findings) {
    EXPECT_NE(finding.level, Level::kFail) << finding.check;
    EXPECT_TRUE(Advises(finding));
  }
}

// ---- the kernel itself ----

TEST(DoctorKernel, HoldsItsSealsHere) {
  EXPECT_TRUE(TrySealing().ok()) << TrySealing();
  EXPECT_TRUE(TryPopulate().ok()) << TryPopulate();
  for (const Finding& finding : CheckKernel())
    EXPECT_EQ(finding.level, Level::kOk) << finding.found;
}

TEST(DoctorKernel, SaysWhatAKernelLacks) {
  const Finding old = SealingFinding(absl::InvalidArgumentError("F_ADD_SEALS: no"));
  EXPECT_THAT(old, Is("memfd_sealing", Level::kFail, "F_ADD_SEALS: no"));
  EXPECT_THAT(old.advice, HasSubstr("Linux 5.1"));
  EXPECT_THAT(PopulateFinding(absl::InvalidArgumentError("EINVAL")).advice, HasSubstr("5.14"));
  EXPECT_THAT(PopulateFinding(absl::ResourceExhaustedError("full")).advice,
              HasSubstr("cgroup_memory"));
  EXPECT_THAT(PageSizeFinding(65536).found, HasSubstr("64 KiB"));
}

// ---- the daemon ----

v1::GetInfoResponse Info() {
  v1::GetInfoResponse info;
  info.set_version("0.1.0");
  info.set_revision("abc");
  info.set_uptime_ms(3'600'000);
  info.set_grpc_address("127.0.0.1:7400,0.0.0.0:7402");
  info.set_http_address("127.0.0.1:7401");
  info.set_socket_path("/run/x.sock");
  return info;
}

TEST(DoctorEndpoint, SaysWhatAnswered) {
  const AskedEndpoint endpoint{.text = "host:7400"};
  EXPECT_THAT(EndpointFinding(endpoint, Info(), absl::Milliseconds(2)),
              Is("endpoint", Level::kOk, "host:7400 answers in 2 ms: infercached 0.1.0, up 1 h"));
  v1::GetInfoResponse draining = Info();
  draining.set_draining(true);
  EXPECT_THAT(EndpointFinding(endpoint, draining, absl::ZeroDuration()),
              Is("endpoint", Level::kWarn, "draining"));
  const Finding dead = EndpointFinding(endpoint, absl::UnavailableError("refused"), {});
  EXPECT_THAT(dead, Is("endpoint", Level::kFail, "nobody answers at host:7400: refused"));
  EXPECT_TRUE(Advises(dead));
  const Finding denied = EndpointFinding(endpoint, absl::PermissionDeniedError("no"), {});
  EXPECT_THAT(denied, Is("endpoint", Level::kWarn, "does not say what it is: no"));
  EXPECT_THAT(denied.advice, HasSubstr("--token-file"));
  EXPECT_THAT(EndpointFinding(endpoint, absl::UnimplementedError("?"), {}),
              Is("endpoint", Level::kFail, "not as an infercached: ? (UNIMPLEMENTED)"));
}

std::vector<std::string> Dialed(const AskedEndpoint& endpoint, const v1::GetInfoResponse& info) {
  std::vector<std::string> dialed;
  CheckLanes(endpoint, info, [&dialed](const std::string& address) {
    dialed.push_back(address);
    return absl::OkStatus();
  });
  return dialed;
}

TEST(DoctorLanes, AreDialedWhereTheyCanBeReached) {
  EXPECT_THAT(
      Dialed({.text = "unix:/run/x.sock", .local = true}, Info()),
      ElementsAre("127.0.0.1:7400", "127.0.0.1:7402", "unix:/run/x.sock", "127.0.0.1:7401"));
  EXPECT_THAT(
      Dialed({.text = "localhost:9", .local = true}, Info()),
      ElementsAre("127.0.0.1:7400", "localhost:7402", "unix:/run/x.sock", "127.0.0.1:7401"));
  EXPECT_THAT(Dialed({.text = "far:7402", .local = false}, Info()), ElementsAre("far:7402"));
  v1::GetInfoResponse v6;
  v6.set_grpc_address("[::]:7400");
  EXPECT_THAT(Dialed({.text = "[2001:db8::1]:7400", .local = false}, v6),
              ElementsAre("[2001:db8::1]:7400"));
  EXPECT_THAT(Dialed({.text = "unix:/s", .local = true}, v6), ElementsAre("[::1]:7400"));
  EXPECT_THAT(Dialed({.text = "unix:/s", .local = true}, {}), IsEmpty());
}

TEST(DoctorLanes, AFailureIsAWarningWithAdvice) {
  const auto findings =
      CheckLanes({.text = "127.0.0.1:7400", .local = true}, Info(),
                 [](const std::string& address) { return absl::UnavailableError(address + "!"); });
  ASSERT_EQ(findings.size(), 4u);
  EXPECT_THAT(findings[0], Is("grpc", Level::kWarn, "127.0.0.1:7400!"));
  EXPECT_THAT(findings[2], Is("unix_socket", Level::kWarn, "unix:/run/x.sock!"));
  EXPECT_THAT(findings[3], Is("http", Level::kWarn, "127.0.0.1:7401!"));
  for (const Finding& finding : findings) EXPECT_TRUE(Advises(finding));
}

TEST(DoctorDial, NamesWhatFailed) {
  const std::string nowhere = "unix:" + testing::TempDir() + "/no-socket-here";
  const absl::Status missing = DialAddress(nowhere, absl::Seconds(5));
  EXPECT_TRUE(absl::IsUnavailable(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no-socket-here: No such file"));
  EXPECT_TRUE(absl::IsUnavailable(DialAddress("unix:" + std::string(200, 'x'), absl::Seconds(5))));
  // Nothing listens on port 1, and nothing resolves a name that ends in "invalid" (RFC 2606).
  EXPECT_TRUE(absl::IsUnavailable(DialAddress("127.0.0.1:1", absl::Seconds(5))));
  EXPECT_TRUE(absl::IsUnavailable(DialAddress("nowhere.invalid:1", absl::Seconds(5))));
}

TEST_F(DoctorMachine, KnowsWhatTheDaemonSaysThatItNeeds) {
  Write("/proc/42/comm", "infercached\n");
  v1::GetInfoResponse info;
  info.set_pid(42);
  info.set_capacity_bytes(3 * kGiB);
  v1::GetStatsResponse stats;
  EXPECT_EQ(DescribeSubject(machine(), info, stats).arena_pages, "") << "an older daemon";
  info.set_arena_pages("hugetlb");
  info.set_lock_memory(true);
  for (const char* kind : {"hugetlb", "4k", "hugetlb"}) {
    auto* ns = stats.add_namespaces();
    ns->set_page_kind(kind);
    ns->set_quota_bytes(kGiB);
  }
  const Subject subject = DescribeSubject(machine(), info, stats);
  EXPECT_TRUE(subject.is_daemon);
  EXPECT_EQ(subject.capacity_bytes, 3 * kGiB);
  EXPECT_EQ(subject.arena_pages, "hugetlb");
  EXPECT_TRUE(subject.lock_memory);
  EXPECT_EQ(subject.hugetlb_bytes, 2 * kGiB);
}

TEST(DoctorVersion, ComparesBoth) {
  EXPECT_THAT(CheckVersion("0.1.0", Info()), Is("version", Level::kOk, "revision abc"));
  const Finding skew = CheckVersion("0.2.0", Info());
  EXPECT_THAT(skew, Is("version", Level::kWarn,
                       "the daemon is 0.1.0 (revision abc), infercachectl is 0.2.0"));
  EXPECT_TRUE(Advises(skew));
}

}  // namespace
}  // namespace infercache::cli
