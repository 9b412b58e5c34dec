// That the learned index learns, what it does before, whom it lets in, and what hints are worth.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "server/store/eviction/block_cache.h"

namespace infercache::store {
namespace {

// Chats beside one-off prompts: 40 chats come back about every 100 s, each time one block longer,
// between 3 prompts a second of 8 blocks that never come again. LRU of 1,000 blocks keeps nothing
// for longer than 40 s.
struct Workload {
  static constexpr uint32_t kChats = 40;
  static constexpr uint32_t kChatBlocks = 256;
  static constexpr uint32_t kFirstOneOff = kChats * kChatBlocks + 1;

  struct Request {
    uint64_t now_ms;
    std::vector<uint32_t> blocks;
    bool chat;
  };

  static std::vector<Request> Make(uint64_t seconds) {
    std::vector<Request> requests;
    uint32_t next = kFirstOneOff;
    std::vector<uint32_t> turns(kChats, 8);
    for (uint64_t t = 0; t < seconds * 1000; t += 250) {
      Request request{.now_ms = 1'000'000 + t, .blocks = {}, .chat = t % 1000 == 0};
      if (request.chat) {
        // Chat i about every 100 s: 40 % of the seconds belong to nobody.
        const uint32_t chat = t / 1000 % 100;
        if (chat >= kChats) continue;
        const uint32_t length = std::min(turns[chat]++, kChatBlocks);
        for (uint32_t i = 0; i < length; ++i) request.blocks.push_back(chat * kChatBlocks + i + 1);
      } else {
        for (int i = 0; i < 8; ++i) request.blocks.push_back(next++);
      }
      requests.push_back(std::move(request));
    }
    return requests;
  }
};

using Hint = std::function<uint8_t(const Workload::Request&, uint32_t block)>;

double HitRatio(
    std::string_view policy, const std::vector<Workload::Request>& requests,
    const Hint& hint = [](const auto&, uint32_t) { return 0; }) {
  uint32_t most = 0;
  for (const auto& request : requests) {
    for (const uint32_t block : request.blocks) most = std::max(most, block);
  }
  BlockCache cache(policy, most, /*capacity=*/1000);
  uint64_t hits = 0, chat_blocks = 0, number = 0;
  for (const Workload::Request& request : requests) {
    ++number;
    for (const uint32_t block : request.blocks) {
      if (!request.chat) break;
      ++chat_blocks;
      if (!cache.Has(block)) break;
      ++hits;
    }
    for (size_t i = request.blocks.size(); i-- > 0;) {
      cache.Touch(request.blocks[i],
                  {.now_ms = request.now_ms,
                   .request = number,
                   .ends_request = i + 1 == request.blocks.size()},
                  hint(request, request.blocks[i]));
    }
  }
  return static_cast<double>(hits) / static_cast<double>(chat_blocks);
}

TEST(Learned, KeepsWhatComesBackLateAmongWhatNeverDoes) {
  const auto requests = Workload::Make(3600);
  const double lru = HitRatio("lru", requests);
  const double learned = HitRatio("auto", requests);
  EXPECT_LT(lru, 0.2);
  EXPECT_GT(learned, lru + 0.4) << "lru " << lru;
}

TEST(Learned, AUselessHintCostsNearlyNothing) {
  const auto requests = Workload::Make(3600);
  const double without = HitRatio("auto", requests);
  const double with = HitRatio("auto", requests, [](const auto&, uint32_t block) {
    return static_cast<uint8_t>(block * 2654435761u >> 28);
  });
  EXPECT_GT(with, 0.95 * without) << "without " << without;
}

// Four prompts of 8 blocks a second. Half of them come back once, after a minute; nothing but the
// hint tells which. There is room for all that will, and for half of all.
std::vector<Workload::Request> PromptsOfWhichHalfComeBack() {
  constexpr uint64_t kComesBackMs = 60'000;
  std::vector<Workload::Request> requests;
  std::mt19937 random(1);
  uint32_t next = 1;
  for (uint64_t t = 0; t < 3'600'000; t += 250) {
    Workload::Request request{.now_ms = 1'000'000 + t, .blocks = {}, .chat = random() % 2 == 0};
    for (int i = 0; i < 8; ++i) request.blocks.push_back(next++);
    requests.push_back(request);
    if (!request.chat) continue;
    request.now_ms += kComesBackMs;
    requests.push_back(std::move(request));
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const auto& a, const auto& b) { return a.now_ms < b.now_ms; });
  return requests;
}

// Hits only of those that come back, of which the first time is always a miss.
TEST(Learned, AGoodHintHelps) {
  const auto requests = PromptsOfWhichHalfComeBack();
  const double without = HitRatio("auto", requests);
  const double with = HitRatio("auto", requests, [](const Workload::Request& request, uint32_t) {
    return static_cast<uint8_t>(request.chat ? 5 : 9);
  });
  const double mostly = HitRatio("auto", requests, [](const auto& request, uint32_t block) {
    const bool right = block / 8 % 5 != 0;
    return static_cast<uint8_t>(request.chat == right ? 5 : 9);
  });
  EXPECT_GT(with, without + 0.15) << "with " << with;
  EXPECT_GT(mostly, without + 0.08) << "with one that is right four times of five " << mostly;
}

// Blocks of two kinds, told apart by their hints, come back after two seconds if they do: of one
// all, of the other as many among ten times as many. The rest of these is still there.
TEST(Learned, WhatIsStillThereUnusedCountsAgainstItsKind) {
  constexpr uint32_t kSeconds = 300, kGoodASecond = 5, kPoorASecond = 50;
  constexpr uint8_t kGoodHint = 5, kPoorHint = 9;
  constexpr uint32_t kBlocks = kSeconds * (kGoodASecond + kPoorASecond) + 2;
  BlockCache cache("auto", kBlocks, kBlocks);
  uint64_t now_ms = 1'000'000, request = 0;
  const auto use = [&](uint32_t block, uint8_t hint) {
    cache.Touch(block, {.now_ms = now_ms, .request = ++request}, hint);
  };
  uint32_t next = 1;
  for (uint32_t second = 0; second < kSeconds; ++second) {
    const uint32_t first = next;
    for (uint32_t i = 0; i < kGoodASecond; ++i) use(next++, kGoodHint);
    for (uint32_t i = 0; i < kPoorASecond; ++i) use(next++, kPoorHint);
    now_ms += 2'000;
    for (uint32_t i = 0; i < 2 * kGoodASecond; ++i)
      use(first + i, i < kGoodASecond ? kGoodHint : kPoorHint);
  }
  ASSERT_EQ(cache.size(), next - 1) << "some have gone";
  now_ms += 60'000;
  const uint32_t good = next++, poor = next++;
  use(good, kGoodHint);
  use(poor, kPoorHint);
  const auto is_new = [&](uint32_t block) { return block == good || block == poor; };
  EXPECT_EQ(cache.policy().Victim(now_ms, is_new), poor) << "LRU would name the other";
}

// An hour of the workload, whose requests say by a hint what they are.
class Admission {
 public:
  explicit Admission(size_t capacity) : cache_("auto", next_ + 100, capacity) {
    for (const auto& request : requests_) {
      ++number_;
      for (size_t i = request.blocks.size(); i-- > 0;)
        Use(request.blocks[i], request.chat, request.now_ms);
    }
  }

  // A new block; false if it went itself. One that is let in sends somebody else.
  bool LetsIn(bool chat) {
    const std::vector<uint32_t> before = Members();
    ++number_;
    Use(next_, chat, requests_.back().now_ms + 250);
    const bool there = cache_.Has(next_++);
    EXPECT_EQ(Members() != before, there);
    return there;
  }

 private:
  static constexpr uint8_t kChatHint = 5, kOneOffHint = 9;

  void Use(uint32_t block, bool chat, uint64_t now_ms) {
    cache_.Touch(block, {.now_ms = now_ms, .request = number_}, chat ? kChatHint : kOneOffHint);
  }
  std::vector<uint32_t> Members() const {
    std::vector<uint32_t> there;
    for (uint32_t block = 1; block <= next_; ++block) {
      if (cache_.Has(block)) there.push_back(block);
    }
    return there;
  }
  static uint32_t AfterAll(const std::vector<Workload::Request>& requests) {
    uint32_t next = Workload::kFirstOneOff;
    for (const auto& request : requests) next = std::max(next, request.blocks.back() + 1);
    return next;
  }

  const std::vector<Workload::Request> requests_ = Workload::Make(3600);
  uint32_t next_ = AfterAll(requests_);
  BlockCache cache_;
  uint64_t number_ = 0;
};

TEST(Learned, ANewBlockThatIsTheWorstGoesItself) {
  Admission full_of_chats(/*capacity=*/1000);
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(full_of_chats.LetsIn(/*chat=*/false));
}

TEST(Learned, ANewBlockThatIsNotTheWorstIsLetIn) {
  Admission with_room_for_all_chats(/*capacity=*/2500);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(with_room_for_all_chats.LetsIn(/*chat=*/true));
}

struct GhostsCase {
  uint64_t block_bytes;
  uint32_t ghosts_a_member;
};

class Ghosts : public ::testing::TestWithParam<GhostsCase> {};
INSTANTIATE_TEST_SUITE_P(Of, Ghosts,
                         ::testing::Values(GhostsCase{4 << 10, 2}, GhostsCase{(256 << 10) - 1, 2},
                                           GhostsCase{256 << 10, 4}, GhostsCase{16 << 20, 4}),
                         [](const auto& info) {
                           return std::to_string(info.param.block_bytes) + "Bytes";
                         });

// Twice as many as there are members, and four times as many where a block is so large that they do
// not matter beside it.
TEST_P(Ghosts, AreAsManyAsTheSizeOfABlockAllows) {
  constexpr uint32_t kCapacity = 500;
  // Whether a block that comes back after so many others is known as one that was there.
  const auto known = [](uint32_t others) {
    BlockCache cache("auto", others + 1, kCapacity);
    const auto use = [&](uint32_t block, uint64_t ms) {
      cache.Touch(
          block,
          {.now_ms = 1'000'000 + ms, .request = 1 + ms, .size_bytes = GetParam().block_bytes});
    };
    for (uint32_t block = 1; block <= others + 1; ++block) use(block, block);
    EXPECT_FALSE(cache.Has(1));
    use(1, others + 2);
    return cache.node(1).uses == 2;
  };
  // Its own eviction is the first; each of the others that comes from then on is one.
  const uint32_t most = (1 + GetParam().ghosts_a_member) * kCapacity;
  EXPECT_TRUE(known(most - 1));
  EXPECT_FALSE(known(most));
}

TEST(Learned, IsLruUntilThereIsSomethingToGoBy) {
  constexpr uint32_t kBlocks = 5000;
  BlockCache lru("lru", kBlocks, 200), learned("auto", kBlocks, 200);
  uint64_t x = 1;
  // Nothing comes back: there is nothing to learn, however long it goes on.
  for (uint32_t i = 1; i < kBlocks; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const Use use{.now_ms = 1'000'000 + i * 100, .request = 1 + i / 3};
    lru.Touch(i, use);
    learned.Touch(i, use);
  }
  for (uint32_t i = 1; i < kBlocks; ++i) ASSERT_EQ(lru.Has(i), learned.Has(i)) << i;
}

// Requests of one block are the end of their request each; once, they went before what had been
// stored in the same millisecond and was never used.
TEST(Learned, WithinAMillisecondTheLastUsedGoesLast) {
  BlockCache cache("auto", 10, 10);
  uint64_t request = 0;
  const auto use = [&](uint32_t block, bool ends_request, uint64_t now_ms = 1'000'000) {
    cache.Touch(block, {.now_ms = now_ms, .request = ++request, .ends_request = ends_request});
  };
  use(1, false, 1'000'000 - 20);
  use(2, false);
  use(1, true);
  use(3, false);
  for (const uint32_t expected : {2u, 1u, 3u}) {
    const uint32_t victim = cache.policy().Victim(1'000'000, [](uint32_t) { return true; });
    EXPECT_EQ(victim, expected);
    cache.Drop(victim, 1'000'000, /*evicted=*/true);
  }
}

// The last block of a piece was taken for the end of its request; then the chain goes on.
TEST(Learned, AChainInPiecesGoesFromItsEnd) {
  BlockCache cache("auto", 100, 100);
  uint64_t request = 0;
  const auto piece = [&](uint32_t first, uint32_t last, uint32_t anchor) {
    ++request;
    for (uint32_t block = last; block >= first; --block) {
      cache.Touch(block, {.now_ms = 1'000'000 + request * 1000,
                          .request = request,
                          .ends_request = block == last,
                          .anchor = anchor});
    }
  };
  piece(1, 4, 0);
  piece(5, 8, 4);
  piece(9, 12, 8);
  for (uint32_t expected = 12; expected > 0; --expected) {
    const uint32_t victim = cache.policy().Victim(1'010'000, [](uint32_t) { return true; });
    EXPECT_EQ(victim, expected);
    cache.Drop(victim, 1'010'000, /*evicted=*/true);
  }
}

// Once, what the first of them opened took the blocks of all, whatever their age.
TEST(Learned, ChainsThatGoOnInOneRequestKeepTheirAges) {
  BlockCache cache("auto", 100, 100);
  uint64_t request = 0;
  const auto use = [&](uint64_t second, std::vector<uint32_t> blocks) {
    ++request;
    for (const uint32_t block : blocks)
      cache.Touch(block, {.now_ms = 1'000'000 + second * 1000, .request = request});
  };
  use(1, {2, 1});
  use(2, {12, 11});
  use(5, {2, 1});
  use(6, {12, 11});
  ++request;
  for (const auto& [block, anchor] :
       {std::pair<uint32_t, uint32_t>{13, 12}, {3, 2}, {14, 12}, {4, 2}})
    cache.Touch(block, {.now_ms = 1'010'000, .request = request, .anchor = anchor});
  for (const uint32_t expected : {3u, 4u, 2u, 1u, 13u, 14u, 12u, 11u}) {
    const uint32_t victim = cache.policy().Victim(1'010'000, [](uint32_t) { return true; });
    EXPECT_EQ(victim, expected);
    cache.Drop(victim, 1'010'000, /*evicted=*/true);
  }
}

// Requests of one turn, of which the second uses what the first has used, and what is deeper.
TEST(Learned, HeadsFollowTheirTails) {
  constexpr uint32_t kBlocks = 1000;
  BlockCache cache("auto", kBlocks, kBlocks);
  uint64_t request = 0;
  const auto use = [&](uint64_t now_ms, std::vector<uint32_t> blocks, bool goes_on = false) {
    if (!goes_on) ++request;
    for (const uint32_t block : blocks) {
      cache.Touch(block, {.now_ms = now_ms, .request = request, .ends_request = block == 4});
    }
  };
  use(1'000'000, {4, 3, 2, 1});
  for (uint32_t block = 5; block <= kBlocks; ++block) use(1'000'100, {block});
  use(1'001'000, {2, 1});
  use(1'001'005, {4, 3, 2, 1});
  use(1'001'006, {4, 3}, /*goes_on=*/true);  // it reads what it has looked for
  const auto next_victim = [&cache] {
    const uint32_t victim = cache.policy().Victim(1'001'006, [](uint32_t) { return true; });
    cache.Drop(victim, 1'001'006, /*evicted=*/true);
    return victim;
  };
  for (uint32_t block = 5; block <= kBlocks; ++block) ASSERT_GT(next_victim(), 4u);
  for (const uint32_t expected : {4u, 3u, 2u, 1u}) EXPECT_EQ(next_victim(), expected);
}

// Requests walk from a root of a tree to some block of it; some store the rest in a call of its
// own.
TEST(Learned, NamesAVictimAsLongAsThereIsAny) {
  constexpr uint32_t kBlocks = 3000, kAlone = 6000;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    std::vector<uint32_t> parents(kBlocks + 1);
    for (uint32_t block = 51; block <= kBlocks; ++block) {
      parents[block] = random() % 3 != 0 ? block - 50 : 1 + random() % (block - 1);
    }
    BlockCache cache("auto", kBlocks + kAlone, kBlocks + kAlone);
    uint64_t now_ms = 1'000'000, request = 0;
    const auto use = [&](const std::vector<uint32_t>& blocks, uint32_t anchor) {
      ++request;
      for (const uint32_t block : blocks) {
        cache.Touch(block, {.now_ms = now_ms,
                            .request = request,
                            .ends_request = block == blocks.front(),
                            .anchor = anchor});
      }
    };
    for (uint32_t i = 1; i < kAlone; ++i) use({kBlocks + i}, 0);
    for (int i = 0; i < 600; ++i) {
      if (random() % 5 == 0) now_ms += 1 + random() % 30;
      std::vector<uint32_t> there, rest;  // from the deepest on
      for (uint32_t block = 1 + random() % kBlocks; block != 0; block = parents[block]) {
        (cache.Has(block) ? there : rest).push_back(block);
      }
      if (!there.empty()) use(there, 0);
      if (!rest.empty()) use(rest, there.empty() ? 0 : there.front());
    }
    now_ms += 1000;
    while (cache.size() > 0) {
      const uint32_t victim = cache.policy().Victim(now_ms, [](uint32_t) { return true; });
      ASSERT_NE(victim, 0u) << cache.size() << " left, seed " << seed;
      cache.Drop(victim, now_ms, /*evicted=*/false);
    }
  }
}

// Where time stands still, as in a trace without times, or the whole cache turns over in no time:
// what shares a segment must not be much of it.
TEST(Learned, IsLruWhereTimeStandsStill) {
  constexpr uint32_t kCapacity = 1000, kBlocks = 20'000;
  BlockCache lru("lru", kBlocks, kCapacity), learned("auto", kBlocks, kCapacity);
  uint32_t lru_hits = 0, learned_hits = 0;
  uint64_t x = 1, request = 0;
  const auto use = [&](uint32_t block) {
    const Use use{.now_ms = 1'000'000, .request = ++request, .ends_request = block % 2 == 0};
    lru_hits += lru.Has(block) ? 1 : 0;
    learned_hits += learned.Has(block) ? 1 : 0;
    lru.Touch(block, use);
    learned.Touch(block, use);
  };
  for (int i = 0; i < 100'000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    // Half of the uses are of a twentieth of the blocks, which would fit.
    const auto random = static_cast<uint32_t>(x >> 33);
    use(1 + (random % 2 == 0 ? random / 2 % (kCapacity / 2) : random / 2 % (kBlocks - 1)));
  }
  EXPECT_GE(learned_hits, lru_hits - lru_hits / 50);
}

// A writer that fills the whole cache anew within the time in which uses count as one: what is used
// every few milliseconds meanwhile stays.
class ConstantUse : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Learned, ConstantUse, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Trained" : "Untrained"; });

TEST_P(ConstantUse, KeepsAnObjectBesideAFastWriter) {
  constexpr uint32_t kCapacity = 1000, kWritesPerMs = 20, kMs = 2000;
  const auto requests = Workload::Make(GetParam() ? 3600 : 0);
  uint32_t next = Workload::kFirstOneOff;
  for (const auto& request : requests) next = std::max(next, request.blocks.back() + 1);
  BlockCache cache("auto", next + 2 + kWritesPerMs * kMs, kCapacity);
  uint64_t now_ms = 1'000'000, number = 0;
  for (const auto& request : requests) {
    now_ms = request.now_ms;
    ++number;
    for (size_t i = request.blocks.size(); i-- > 0;) {
      cache.Touch(request.blocks[i], {.now_ms = now_ms, .request = number});
    }
  }
  const uint32_t hot = next++, hot_alone = next++;  // the second ends its requests
  int gone = 0, gone_alone = 0;
  for (uint32_t ms = 0; ms < kMs; ++ms, ++now_ms) {
    if (ms % 4 == 0) {
      gone += cache.Has(hot) ? 0 : 1;
      cache.Touch(hot, {.now_ms = now_ms, .request = ++number});
      gone_alone += cache.Has(hot_alone) ? 0 : 1;
      cache.Touch(hot_alone, {.now_ms = now_ms, .request = ++number, .ends_request = true});
    }
    for (uint32_t i = 0; i < kWritesPerMs; ++i) {
      cache.Touch(next++, {.now_ms = now_ms, .request = ++number});
    }
  }
  // The first time it was not there yet; who knows better than LRU may refuse it once at that.
  EXPECT_LE(gone, GetParam() ? 2 : 1);
  EXPECT_LE(gone_alone, GetParam() ? 2 : 1);
}

}  // namespace
}  // namespace infercache::store
