#include "server/local_peers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace infercache::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ResolvePeers, TakesNamesAndNumbersOfUsersAndGroups) {
  const auto peers = ResolvePeers({"root", "1000", "@root", "@4294967294"});
  ASSERT_TRUE(peers.ok()) << peers.status();
  EXPECT_FALSE(peers->everyone);
  EXPECT_THAT(peers->users, ElementsAre(0u, 1000u));
  EXPECT_THAT(peers->groups, ElementsAre(0u, 4294967294u));
}

TEST(ResolvePeers, AStarIsEveryoneAndAnEmptyListIsNobody) {
  EXPECT_TRUE(ResolvePeers({"*"})->everyone);
  EXPECT_TRUE(ResolvePeers({"root", "*"})->everyone);
  const auto nobody = ResolvePeers({});
  ASSERT_TRUE(nobody.ok());
  EXPECT_FALSE(nobody->everyone);
  EXPECT_THAT(nobody->users, IsEmpty());
  EXPECT_THAT(nobody->groups, IsEmpty());
}

TEST(ResolvePeers, NamesWhatItCannotResolve) {
  const struct {
    std::string text, error;
  } cases[] = {{"no-such-user-here", "there is no user \"no-such-user-here\""},
               {"@no-such-group", "there is no group \"no-such-group\""},
               {"", "\"\" names nobody"},
               {"@", "\"@\" names nobody"},
               {"4294967295", "\"4294967295\" is no number of a user or group"},
               {"99999999999999999999", "is no number of a user or group"},
               {"-1", "there is no user \"-1\""},
               {"a\nb", "there is no user \"a\\x0ab\""}};
  for (const auto& c : cases) {
    const auto peers = ResolvePeers({"root", c.text});
    EXPECT_EQ(peers.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(peers.status().message()), HasSubstr(c.error));
  }
}

}  // namespace
}  // namespace infercache::server
