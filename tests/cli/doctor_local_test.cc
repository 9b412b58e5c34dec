// What doctor makes of the same-host lane.

#include "client/cli/doctor_local.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/finding_matcher.h"

namespace infercache::cli {
namespace {

using testing::HasSubstr;

TEST(DoctorLocal, SaysWhatASessionMayDo) {
  v1::Welcome welcome;
  const auto found = [&welcome](v1::Welcome::PutAccess access) {
    welcome.set_put_access(access);
    return LocalLaneFinding("/s", "kv", welcome);
  };
  EXPECT_THAT(found(v1::Welcome::PUT_ACCESS_IN_PLACE),
              Is("local_lane", Level::kOk, "stores in place"));
  EXPECT_THAT(found(v1::Welcome::PUT_ACCESS_SEND),
              Is("local_lane", Level::kOk, "sends what it stores"));
  EXPECT_THAT(found(v1::Welcome::PUT_ACCESS_NONE), Is("local_lane", Level::kOk, "may not store"));
}

TEST(DoctorLocal, SaysWhyThereIsNoSession) {
  const struct {
    absl::Status status;
    std::string advice;
  } cases[] = {{absl::PermissionDeniedError("uid 7"), "local_users of kv"},
               {absl::FailedPreconditionError("version"), "--fingerprint"},
               {absl::ResourceExhaustedError("full"), "local.max_sessions"},
               {absl::UnavailableError("closed"), "owner and mode"},
               {absl::DeadlineExceededError("no answer"), "owner and mode"}};
  for (const auto& c : cases) {
    const Finding finding = LocalLaneFinding("/s", "kv", c.status);
    EXPECT_THAT(finding, Is("local_lane", Level::kWarn, std::string(c.status.message())));
    EXPECT_THAT(finding.advice, HasSubstr(c.advice));
  }
  EXPECT_THAT(LocalLaneFinding("/s", "kv", absl::NotFoundError("no kv")),
              Is("local_lane", Level::kOk, "--namespace"))
      << "the lane is there";
}

TEST(DoctorLocal, SayHelloNamesASocketThatIsNotThere) {
  EXPECT_TRUE(absl::IsUnavailable(
      SayHello(testing::TempDir() + "/no-socket-here", {}, absl::Seconds(5)).status()));
  EXPECT_TRUE(absl::IsUnavailable(SayHello(std::string(200, 'x'), {}, absl::Seconds(5)).status()));
}

TEST(DoctorLocal, PeerPidfd) {
  EXPECT_THAT(PeerPidfdFinding(absl::OkStatus()), Is("peer_pidfd", Level::kOk, "other containers"));
  const Finding none = PeerPidfdFinding(absl::UnimplementedError("SO_PEERPIDFD: no"));
  EXPECT_THAT(none, Is("peer_pidfd", Level::kWarn, "SO_PEERPIDFD"));
  EXPECT_THAT(none.advice, HasSubstr("Linux 6.5"));
}

TEST(DoctorLocal, ArenaPages) {
  v1::GetStatsResponse stats;
  auto* a = stats.add_namespaces();
  a->set_name("a");
  a->set_page_kind("hugetlb");
  EXPECT_THAT(ArenaPagesFinding(stats), Is("arena_pages", Level::kOk, "hugetlb (a)"));
  auto* b = stats.add_namespaces();
  b->set_name("b");
  b->set_page_kind("4k");
  const Finding finding = ArenaPagesFinding(stats);
  EXPECT_THAT(finding, Is("arena_pages", Level::kWarn, "4k (b); hugetlb (a)"));
  EXPECT_THAT(finding.advice, HasSubstr("page tables"));
}

}  // namespace
}  // namespace infercache::cli
