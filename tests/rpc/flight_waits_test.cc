#include "server/rpc/flight_waits.h"

#include <gtest/gtest.h>

namespace infercache::rpc {
namespace {

using Outcome = store::ClaimEvent::Outcome;

TEST(FlightWaits, AnEventFindsWhereItsWaitWasAskedFor) {
  FlightWaits waits;
  EXPECT_FALSE(waits.OnAnswer(5, {.id = 7, .index = 3}));
  const auto asked = waits.OnEvent({.ticket = 5, .outcome = Outcome::kHit});
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->id, 7u);
  EXPECT_EQ(asked->index, 3u);
  EXPECT_EQ(waits.size(), 0u);
}

TEST(FlightWaits, AnEventMayComeBeforeTheAnswerThatSaysWait) {
  FlightWaits waits;
  EXPECT_FALSE(waits.OnEvent({.ticket = 5, .outcome = Outcome::kHit}));
  const auto event = waits.OnAnswer(5, {.id = 7, .index = 3});
  ASSERT_TRUE(event);
  EXPECT_EQ(event->outcome, Outcome::kHit);
  EXPECT_EQ(waits.size(), 0u);
}

// Each wait that was given up stayed for as long as its stream.
TEST(FlightWaits, NothingIsLeftOfAWaitThatWasGivenUp) {
  FlightWaits waits;
  waits.OnAnswer(5, {.id = 7, .index = 0});
  waits.OnGiveUp(5);
  EXPECT_EQ(waits.size(), 0u);
  // Nor of an event that was on its way.
  EXPECT_FALSE(waits.OnEvent({.ticket = 5, .outcome = Outcome::kWin}));
  EXPECT_FALSE(waits.OnAnswer(std::nullopt, {.id = 8, .index = 0}));
  EXPECT_EQ(waits.size(), 0u);
}

}  // namespace
}  // namespace infercache::rpc
