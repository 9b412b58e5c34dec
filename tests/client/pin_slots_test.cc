#include "client/src/pin_slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>
#include <vector>

namespace infercache {
namespace {

class PinSlotsTest : public testing::Test {
 protected:
  static constexpr uint32_t kCapacity = 4096;

  shm::SessionPage page() {
    return shm::SessionPage::Format(std::as_writable_bytes(std::span(memory_)), kCapacity);
  }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> memory_{shm::SessionPage::BytesFor(kCapacity) / 64 + 1};
};

TEST_F(PinSlotsTest, EachIsHandedOutOnce) {
  for (const uint32_t limit : {1u, 2u, 7u, 63u, 64u, 65u, 1000u, 1024u, kCapacity}) {
    PinSlots slots(page(), limit);
    std::set<uint32_t> taken;
    for (uint32_t lane = 0; lane < slots.lanes(); ++lane) {
      EXPECT_TRUE(taken.insert(slots.OfLane(lane)).second) << limit;
    }
    EXPECT_EQ(slots.CountFree(), limit - slots.lanes()) << limit;
    for (uint32_t slot; (slot = slots.Claim(3)) != PinSlots::kNone;) {
      EXPECT_TRUE(taken.insert(slot).second) << limit;
    }
    EXPECT_EQ(taken.size(), limit);
    EXPECT_LT(*taken.rbegin(), limit);
    EXPECT_EQ(slots.CountFree(), 0u);
  }
}

TEST_F(PinSlotsTest, AreInUseBeforeTheyAreUsed) {
  shm::SessionPage shared = page();
  PinSlots slots(shared, 1024);
  EXPECT_EQ(shared.slots_in_use(), 0u);
  EXPECT_EQ(slots.OfLane(0), 0u);
  EXPECT_EQ(shared.slots_in_use(), 1u);
  const uint32_t claimed = slots.Claim(0);
  EXPECT_LT(claimed, 64u) << "near its lane: scans stay short";
  EXPECT_GT(shared.slots_in_use(), claimed);
  EXPECT_LE(shared.slots_in_use(), 64u);
}

TEST_F(PinSlotsTest, GrowAndNeverShrink) {
  PinSlots slots(page(), 8);
  const uint32_t lanes = slots.lanes();
  while (slots.Claim(0) != PinSlots::kNone) {
  }
  slots.RaiseLimit(4);
  EXPECT_EQ(slots.limit(), 8u);
  slots.RaiseLimit(100);
  EXPECT_EQ(slots.CountFree(), 92u);
  slots.RaiseLimit(~0u);
  EXPECT_EQ(slots.limit(), kCapacity);
  EXPECT_EQ(slots.lanes(), lanes);
}

TEST_F(PinSlotsTest, ThreadsNeverShareOne) {
  PinSlots slots(page(), 128);
  std::vector<std::atomic<bool>> taken(128);
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20'000; ++i) {
        const uint32_t slot = slots.Claim(t);
        if (slot == PinSlots::kNone) continue;
        ASSERT_FALSE(taken[slot].exchange(true));
        taken[slot] = false;
        slots.Free(slot);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(slots.CountFree(), 128 - slots.lanes());
}

}  // namespace
}  // namespace infercache
