#include "common/heartbeat.h"

#include <gmock/gmock.h>

namespace infercache {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Heartbeats, NameWhoIsSilent) {
  Heartbeats heartbeats;
  const auto one = heartbeats.Add("one"), other = heartbeats.Add("other");
  const auto now = Heartbeat::Clock::now();
  one->Beat(now);
  other->Beat(now - seconds(11));
  EXPECT_THAT(heartbeats.Silent(seconds(11), now), IsEmpty()) << "not longer";
  EXPECT_THAT(heartbeats.Silent(seconds(10), now), ElementsAre("other"));
  EXPECT_THAT(heartbeats.Silent(seconds(10), now + seconds(11)), ElementsAre("one", "other"));
  other->Beat(now);
  EXPECT_THAT(heartbeats.Silent(seconds(10), now), IsEmpty());
}

TEST(Heartbeats, BeginWithABeatAndEndWithTheirOwner) {
  Heartbeats heartbeats;
  auto one = heartbeats.Add("one");
  EXPECT_THAT(heartbeats.Silent(seconds(100)), IsEmpty());
  const auto later = Heartbeat::Clock::now() + seconds(101);
  EXPECT_THAT(heartbeats.Silent(seconds(100), later), ElementsAre("one"));
  one = nullptr;
  EXPECT_THAT(heartbeats.Silent(seconds(100), later), IsEmpty());
}

}  // namespace
}  // namespace infercache
