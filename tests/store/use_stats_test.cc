// What a namespace says that twice its capacity would hit, against one that has it.

#include "server/store/use_stats.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

class WhatIf : public StoreFixture {
 protected:
  NamespaceVerbs Open(std::string name, uint64_t objects) {
    return Create({.name = std::move(name),
                   .quota_bytes = 4 * kMiB,
                   .max_objects = objects,
                   .policy = "lru"});
  }
  // A use of each block of a prompt, from its last to its first; what is not there is stored.
  static void Request(const NamespaceVerbs& ns, const std::vector<std::string>& blocks) {
    UseContext use{.request = ns->NewRequest()};
    for (size_t i = blocks.size(); i-- > 0;) {
      use.ends_request = i + 1 == blocks.size();
      auto lease =
          ns->Reserve({.id = {blocks[i], Fingerprint().hash()}, .size_bytes = 8, .use = use});
      ASSERT_TRUE(lease.ok()) << lease.status();
      if (!lease->has_value()) continue;
      ASSERT_TRUE(ns->Commit(**std::move(lease), use).ok());
    }
  }
};

// Chats of which some are much livelier than others, each behind one of four system prompts and a
// block longer every few turns, among prompts that nobody repeats.
TEST_F(WhatIf, TwiceTheCapacityHitsWhatHalfOfItForetold) {
  const NamespaceVerbs one = Open("one", 1'000), twice = Open("twice", 2'000);
  std::mt19937 random(1);
  std::vector<size_t> turns(400);
  for (int request = 0; request < 6'000; ++request) {
    clock_.AdvanceMs(1'000);
    std::vector<std::string> blocks;
    if (random() % 4 == 0) {
      for (int i = 0; i < 6; ++i)
        blocks.push_back("once:" + std::to_string(request) + ":" + std::to_string(i));
    } else {
      const size_t lively = 1 + random() % turns.size();
      const size_t chat = random() % lively;
      for (int i = 0; i < 3; ++i)
        blocks.push_back("system:" + std::to_string(chat % 4) + ":" + std::to_string(i));
      const size_t length = 3 + turns[chat]++ / 4;
      for (size_t i = 0; i < length; ++i)
        blocks.push_back("chat:" + std::to_string(chat) + ":" + std::to_string(i));
    }
    Request(one, blocks);
    Request(twice, blocks);
  }
  const UseStats foretold = one->Stats().uses, got = twice->Stats().uses;
  EXPECT_GT(foretold.HitRatioAtTwiceTheCapacity(), foretold.HitRatio() + 0.05)
      << "the trace asks nothing of it";
  EXPECT_NEAR(foretold.HitRatioAtTwiceTheCapacity(), got.HitRatio(), 0.001);
  RecordProperty("hit_ratio", std::to_string(foretold.HitRatio()));
  RecordProperty("foretold", std::to_string(foretold.HitRatioAtTwiceTheCapacity()));
  RecordProperty("got", std::to_string(got.HitRatio()));
}

}  // namespace
}  // namespace infercache::store
