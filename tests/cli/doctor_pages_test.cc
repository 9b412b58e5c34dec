// What doctor makes of the pages that a machine has, and what a daemon wants of them.

#include "client/cli/doctor_pages.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/finding_matcher.h"
#include "tests/cli/machine_fixture.h"

namespace infercache::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

using DoctorPages = DoctorMachine;

TEST_F(DoctorPages, TransparentHugePages) {
  EXPECT_THAT(CheckTransparentHugePages(machine()), Is("thp", Level::kWarn, "no transparent"));
  const std::string path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  for (const char* good : {"[always] within_size advise never deny force",
                           "always [within_size] advise never deny force",
                           "always within_size [advise] never deny force",
                           "always within_size advise never deny [force]"}) {
    Write(path, good);
    EXPECT_EQ(CheckTransparentHugePages(machine()).level, Level::kOk) << good;
  }
  for (const char* bad : {"always within_size advise [never] deny force",
                          "always within_size advise never [deny] force"}) {
    Write(path, bad);
    EXPECT_EQ(CheckTransparentHugePages(machine()).level, Level::kWarn) << bad;
    EXPECT_THAT(CheckTransparentHugePages(machine()).advice, HasSubstr("echo advise > /sys"));
  }
  for (const char* malformed : {"", "]always[", "always"}) {
    Write(path, malformed);
    EXPECT_THAT(CheckTransparentHugePages(machine()), Is("thp", Level::kWarn, "cannot be told"));
  }
}

TEST_F(DoctorPages, Hugetlb) {
  EXPECT_THAT(CheckHugetlb(machine(), {}), Is("hugetlb", Level::kOk, "no huge pages"));
  const std::string directory = "/sys/kernel/mm/hugepages/";
  Write(directory + "hugepages-2048kB/nr_hugepages", "512\n");
  Write(directory + "hugepages-2048kB/free_hugepages", "500\n");
  Write(directory + "hugepages-1048576kB/nr_hugepages", "0\n");
  Write(directory + "hugepages-1048576kB/free_hugepages", "0\n");
  Write(directory + "something/nr_hugepages", "7\n");
  const Finding finding = CheckHugetlb(machine(), Daemon(kGiB));
  EXPECT_THAT(finding.found, HasSubstr("512 pages of 2 MiB, 500 of them free"));
  EXPECT_THAT(finding.found, Not(HasSubstr("GiB")));
  EXPECT_EQ(finding.level, Level::kOk) << "nobody asked for them";
}

TEST_F(DoctorPages, HugetlbAgainstTheCapacityOfADaemonThatInsistsOnIt) {
  Subject daemon = Daemon(kGiB);  // 512 pages
  daemon.arena_pages = "hugetlb";
  const Finding none = CheckHugetlb(machine(), daemon);
  EXPECT_THAT(none, Is("hugetlb", Level::kWarn, "no huge pages are reserved; arena_pages is"));
  EXPECT_THAT(none.advice, HasSubstr("sysctl -w vm.nr_hugepages=512,"));

  const std::string directory = "/sys/kernel/mm/hugepages/hugepages-2048kB";
  Write(directory + "/nr_hugepages", "512\n");
  Write(directory + "/free_hugepages", "512\n");
  EXPECT_THAT(CheckHugetlb(machine(), daemon), Is("hugetlb", Level::kOk, "takes 512 pages"));
  Write(directory + "/free_hugepages", "511\n");
  const Finding taken = CheckHugetlb(machine(), daemon);
  EXPECT_EQ(taken.level, Level::kWarn) << "somebody else has one";
  EXPECT_THAT(taken.advice, HasSubstr("vm.nr_hugepages=513,"));
  EXPECT_THAT(taken.advice, HasSubstr("more than 511 pages"));

  daemon.hugetlb_bytes = kGiB / 2;
  Write(directory + "/free_hugepages", "256\n");
  EXPECT_EQ(CheckHugetlb(machine(), daemon).level, Level::kOk) << "the daemon has the others";
  Write(directory + "/resv_hugepages", "6\n");
  EXPECT_THAT(CheckHugetlb(machine(), daemon).advice, HasSubstr("vm.nr_hugepages=518,"));

  daemon.arena_pages = "auto";
  EXPECT_EQ(CheckHugetlb(machine(), daemon).level, Level::kOk) << "other pages do as well";
}

}  // namespace
}  // namespace infercache::cli
