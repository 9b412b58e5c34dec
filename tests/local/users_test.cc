#include "server/local/users.h"

#include <gtest/gtest.h>

#include "common/limits.h"

namespace infercache::local {
namespace {

TEST(Users, OneOfThemLeavesAQuarterOfTheSessionsToOthers) {
  Users users(8);
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(users.AddSession(1).ok());
  EXPECT_EQ(users.AddSession(1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(users.AddSession(2).ok());
  users.RemoveSession(1);
  EXPECT_TRUE(users.AddSession(1).ok());
}

TEST(Users, OfFewSessionsOneMayHaveAll) {
  Users users(7);
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(users.AddSession(1).ok());
}

TEST(Users, QuarantineHasALimitForEachAndForAll) {
  Users users(4096);
  const size_t full = kMaxQuarantinedSessions / kMaxQuarantinedSessionsPerUser;
  for (uint32_t user = 1; user <= full; ++user) {
    for (size_t i = 1; i < kMaxQuarantinedSessionsPerUser; ++i) users.AddQuarantined(user);
    EXPECT_TRUE(users.AddSession(user).ok());
    users.AddQuarantined(user);
    EXPECT_EQ(users.AddSession(user).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_TRUE(users.AddSession(99).ok()) << "it has none of them";
  users.AddQuarantined(99);
  EXPECT_EQ(users.AddSession(99).code(), absl::StatusCode::kResourceExhausted);
  users.RemoveQuarantined(1);
  users.RemoveQuarantined(1);
  EXPECT_TRUE(users.AddSession(99).ok());
  EXPECT_TRUE(users.AddSession(1).ok());
}

// Every session could have the daemon read 65,536 slots ten times a second, for nothing.
TEST(Users, SlotsThatGrowHaveALimitForEach) {
  Users users(8);
  EXPECT_TRUE(users.AddSlots(1, kMaxGrownPinSlotsPerUser - 1).ok());
  EXPECT_TRUE(users.AddSlots(1, 1).ok());
  EXPECT_EQ(users.AddSlots(1, 1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(users.AddSlots(2, 1).ok());
  users.RemoveSlots(1, 1);
  EXPECT_TRUE(users.AddSlots(1, 1).ok());
  users.RemoveSlots(1, kMaxGrownPinSlotsPerUser);
  EXPECT_TRUE(users.AddSlots(1, kMaxGrownPinSlotsPerUser).ok());
}

}  // namespace
}  // namespace infercache::local
