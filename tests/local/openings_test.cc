#include "server/local/openings.h"

#include <gtest/gtest.h>

namespace infercache::local {
namespace {

TEST(Openings, WhoHasMostLosesItsOldest) {
  Openings openings;
  openings.Add(/*user=*/7, 1);
  openings.Add(8, 2);
  openings.Add(8, 3);
  openings.Add(8, 4);
  EXPECT_EQ(openings.TakeWorst(), 2u);
  openings.Remove(2);  // is over by now
  EXPECT_EQ(openings.TakeWorst(), 3u);
  openings.Remove(4);  // has a session
  EXPECT_EQ(openings.TakeWorst(), 1u);
  EXPECT_EQ(openings.TakeWorst(), std::nullopt);
}

}  // namespace
}  // namespace infercache::local
