// What clients tell the store through their pages: uses, counters, pins. And what the store makes
// of it when they lie.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/store/shm_client.h"
#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using shm::FindOutcome;
using shm::FindResult;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Not;

class ClientPages : public StoreFixture {
 protected:
  void TearDown() override {
    client_.reset();
    StoreFixture::TearDown();
  }

  // A pin word for what `key` is now.
  uint64_t PinOf(std::string_view key, uint32_t slot = 0) {
    const FindResult found = client_->Find(key, clock_.NowMs(), slot);
    EXPECT_EQ(found.outcome, FindOutcome::kPinned) << key;
    const uint64_t pin = client_->page().slot(slot).load();
    client_->Unpin(slot);
    return pin;
  }
  void Touch(uint64_t word, uint32_t lane = 0) {
    shm::LaneHeader& header = client_->page().lane(lane);
    const uint64_t position = header.touched.load();
    client_->page().touch(lane, position).store(word);
    header.touched.store(position + 1);
  }
  size_t Drain(size_t limit = 1'000'000) {
    return ns_->DrainTouches(*client_->daemons_page(), limit);
  }
  // Puts until about half as much is evicted as there are `keys`, and returns which are left.
  std::vector<std::string> LeftAfterPressure(const std::vector<std::string>& keys) {
    for (int i = 0; ns_->Stats().evicted < keys.size() / 2; ++i) {
      clock_.AdvanceMs(1);
      ns_.MustPut("filler:" + std::to_string(i), std::string(32 * 1024, 'f'));
    }
    std::vector<std::string> left;
    for (const std::string& key : keys) {
      if (ns_.Has(key)) left.push_back(key);
    }
    return left;
  }

  NamespaceVerbs ns_ = Create("clients");
  std::unique_ptr<ShmClient> client_ = std::make_unique<ShmClient>(ns_.shared());
};

TEST_F(ClientPages, TouchesKeepWhatClientsUse) {
  const std::vector<std::string> keys = {"a", "b", "c", "d", "e", "f"};
  for (const std::string& key : keys) ns_.MustPut(key, std::string(32 * 1024, 'v'));
  clock_.AdvanceMs(10);
  Touch(shm::MakeTouch(PinOf("a"), /*end_of_request=*/true));
  EXPECT_EQ(Drain(), 1u);
  EXPECT_THAT(LeftAfterPressure(keys), AllOf(Contains("a"), Not(Contains("b"))));
}

TEST_F(ClientPages, PutsThatEvictTakeTouchesInFirst) {
  const std::vector<std::string> keys = {"a", "b", "c", "d", "e", "f"};
  for (const std::string& key : keys) ns_.MustPut(key, std::string(32 * 1024, 'v'));
  clock_.AdvanceMs(10);
  Touch(PinOf("b"), /*lane=*/shm::kLanes - 1);
  EXPECT_THAT(LeftAfterPressure(keys), AllOf(Contains("b"), Not(Contains("a"))))
      << "without a call to DrainTouches";
}

TEST_F(ClientPages, TouchOfAnEarlierIncarnationCountsForNothing) {
  ns_.MustPut("old", "value");
  const uint64_t stale = PinOf("old");
  EXPECT_TRUE(ns_.Erase("old"));
  ns_.MaintainAll();
  const std::vector<std::string> keys = {"reuses", "b", "c", "d", "e", "f"};
  for (const std::string& key : keys) ns_.MustPut(key, std::string(32 * 1024, 'v'));
  ASSERT_EQ(shm::PinnedRecord(PinOf("reuses")), shm::PinnedRecord(stale));
  clock_.AdvanceMs(10);
  Touch(stale);
  EXPECT_EQ(Drain(), 1u);
  EXPECT_THAT(LeftAfterPressure(keys), Not(Contains("reuses")));
}

TEST_F(ClientPages, DrainStopsAtItsLimitAndGoesOnThere) {
  ns_.MustPut("k", "value");
  const uint64_t pin = PinOf("k");
  for (uint32_t lane = 0; lane < 3; ++lane) {
    for (int i = 0; i < 10; ++i) Touch(pin, lane);
  }
  EXPECT_EQ(Drain(25), 25u);
  EXPECT_EQ(Drain(25), 5u);
  EXPECT_EQ(Drain(25), 0u);
  EXPECT_EQ(client_->page().lane(2).drained.load(), 10u) << "the client is not told";
}

// A thread that fills its ring faster than it is drained does not keep the others' touches waiting.
TEST_F(ClientPages, ALaneThatRefillsDoesNotStarveTheOthers) {
  ns_.MustPut("k", "value");
  const uint64_t pin = PinOf("k");
  Touch(pin, /*lane=*/5);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) Touch(pin, /*lane=*/0);
    EXPECT_EQ(Drain(10), 10u);
  }
  EXPECT_EQ(client_->page().lane(5).drained.load(), 1u);
}

TEST_F(ClientPages, OverrunRingsLoseTheOldest) {
  ns_.MustPut("k", "value");
  const uint64_t pin = PinOf("k");
  for (uint32_t i = 0; i < shm::kRingEntries + 5; ++i) Touch(pin);
  EXPECT_EQ(Drain(), shm::kRingEntries);
  EXPECT_EQ(client_->page().lane(0).drained.load(), shm::kRingEntries + 5);
}

TEST_F(ClientPages, HostileTouchesReorderAtMostTheirNamespace) {
  ns_.MustPut("k", "value");
  Touch(~uint64_t{0});
  Touch(shm::MakePin(0x7fffffff, 2));
  Touch(0);
  Touch(shm::MakePin(1, 0xfffffffe));
  client_->page().lane(1).touched.store(~uint64_t{0});  // a ring ahead of where it ever was
  EXPECT_EQ(Drain(), 4u + shm::kRingEntries);
  client_->page().lane(1).touched.store(5);  // and back
  EXPECT_LE(Drain(), shm::kRingEntries);
  EXPECT_TRUE(ns_.Has("k"));
}

TEST_F(ClientPages, CountersOfClientsAreSummedAndOutliveThem) {
  shm::LaneHeader& lane = client_->page().lane(3);
  lane.hits.store(10);
  lane.hit_bytes.store(1000);
  EXPECT_EQ(ns_->Stats().client.hits, 10u);
  lane.hits.store(15);
  lane.misses.store(2);
  lane.saved_compute_us.store(77);
  EXPECT_EQ(ns_->Stats().client.hits, 15u);
  client_->Die();
  const NamespaceStats stats = ns_->Stats();
  EXPECT_EQ(stats.client.hits, 15u);
  EXPECT_EQ(stats.client.misses, 2u);
  EXPECT_EQ(stats.client.hit_bytes, 1000u);
  EXPECT_EQ(stats.client.saved_compute_us, 77u);
  EXPECT_EQ(stats.client_pages, 0u);
}

TEST_F(ClientPages, CountersThatMoveBackOrLeapCountForNothing) {
  shm::LaneHeader& lane = client_->page().lane(0);
  lane.hits.store(100);
  EXPECT_EQ(ns_->Stats().client.hits, 100u);
  lane.hits.store(50);
  EXPECT_EQ(ns_->Stats().client.hits, 100u);
  lane.hits.store(~uint64_t{0} / 2);
  EXPECT_EQ(ns_->Stats().client.hits, 100u);
  lane.hits.store(~uint64_t{0} / 2 + 7);
  EXPECT_EQ(ns_->Stats().client.hits, 107u);
}

TEST_F(ClientPages, TotalsNeverWrapWhateverClientsClaim) {
  uint64_t before = 0;
  for (uint64_t look = 1; look <= 100; ++look) {
    for (uint32_t i = 0; i < shm::kLanes; ++i) {
      client_->page().lane(i).hit_bytes.store(look << 56);
    }
    const uint64_t now = ns_->Stats().client.hit_bytes;
    ASSERT_GE(now, before) << look;
    before = now;
  }
  EXPECT_EQ(before, uint64_t{1} << 62);
  for (uint32_t i = 0; i < shm::kLanes; ++i) client_->page().lane(i).hit_bytes.store(1 << 20);
  EXPECT_EQ(ns_->Stats().client.hit_bytes, before);
}

TEST_F(ClientPages, PinsAreWeighed) {
  ns_.MustPut("a", std::string(1024, 'v'));
  ns_.MustPut("b", std::string(2048, 'v'));
  EXPECT_EQ(ns_->PinsOf(*client_->daemons_page()).pins, 0u);
  ASSERT_EQ(client_->Find("a", clock_.NowMs(), 0).outcome, FindOutcome::kPinned);
  ASSERT_EQ(client_->Find("b", clock_.NowMs(), 7).outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("b"));  // in limbo it weighs the same
  Namespace::PinUse use = ns_->PinsOf(*client_->daemons_page());
  EXPECT_EQ(use.pins, 2u);
  EXPECT_EQ(use.bytes, 3072u);
  EXPECT_EQ(use.largest_bytes, 2048u);
  EXPECT_EQ(ns_->Stats().client_pins, 2u);
  // A word that names no record is a slot in use, and weighs nothing.
  client_->page().slot(9).store(~uint64_t{0});
  use = ns_->PinsOf(*client_->daemons_page());
  EXPECT_EQ(use.pins, 3u);
  EXPECT_EQ(use.bytes, 3072u);
  // One that names a record keeps it from being reused, whatever the generation: it weighs.
  client_->page().slot(10).store(shm::MakePin(shm::PinnedRecord(PinOf("a", 11)), 0x1234));
  EXPECT_EQ(ns_->PinsOf(*client_->daemons_page()).bytes, 4096u);
}

// As the client counts them: by their blocks they would be beyond a budget that it keeps to.
TEST_F(ClientPages, SmallObjectsWeighNoMoreThanTheirSize) {
  ns_.MustPut("a", "v");
  ns_.MustPut("b", std::string(65, 'v'));
  ASSERT_EQ(client_->Find("a", clock_.NowMs(), 0).outcome, FindOutcome::kPinned);
  ASSERT_EQ(client_->Find("b", clock_.NowMs(), 1).outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("b"));
  EXPECT_EQ(ns_->PinsOf(*client_->daemons_page()).bytes, 66u);
}

TEST_F(ClientPages, SlotsBeyondTheLimitDoNotCount) {
  ns_.MustPut("k", "value");
  client_->page().RaiseSlotsInUse(kMaxPinSlots);
  ASSERT_EQ(client_->Find("k", clock_.NowMs(), 64).outcome, FindOutcome::kPinned);
  EXPECT_EQ(ns_->PinsOf(*client_->daemons_page()).pins, 0u) << "the page was made with 64 slots";
  client_->daemons_page()->RaiseSlotLimit(128);
  EXPECT_EQ(ns_->PinsOf(*client_->daemons_page()).pins, 1u);
}

TEST_F(ClientPages, LimboIsCountedByAge) {
  ns_.MustPut("k", std::string(1024, 'v'));
  ASSERT_EQ(client_->Find("k", clock_.NowMs()).outcome, FindOutcome::kPinned);
  EXPECT_TRUE(ns_.Erase("k"));
  EXPECT_EQ(ns_->Stats().limbo_age.below_1s, 1024u);
  clock_.AdvanceMs(9'000);
  EXPECT_EQ(ns_->Stats().limbo_age.below_10s, 1024u);
  clock_.AdvanceMs(60'000);
  EXPECT_EQ(ns_->Stats().limbo_age.older, 1024u);
  client_->Unpin();
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_age.total(), 0u);
}

TEST_F(ClientPages, QuarantinedBytesStayReservedUntilTheyAreLetGo) {
  {
    WriteLease lease = ns_.Reserve("k", std::string(1024, 'v'));
    lease.Quarantine();
    lease.Quarantine();  // saying so twice changes nothing
    const NamespaceStats stats = ns_->Stats();
    EXPECT_EQ(stats.reserved_bytes, 1024u);
    EXPECT_EQ(stats.quarantined_bytes, 1024u);
  }
  EXPECT_EQ(ns_->Stats().quarantined_bytes, 0u);
  EXPECT_EQ(ns_->Stats().reserved_bytes, 0u);
  const WriteLease next = ns_.Reserve("k", "v");  // takes the same record
  EXPECT_EQ(ns_->Stats().quarantined_bytes, 0u);
}

TEST_F(ClientPages, PlacesNameTheBytesInTheChunks) {
  WriteLease written = ns_.Reserve("k", "the value");
  const Place place = written.place();
  EXPECT_EQ(ns_->arena_chunks()[place.chunk].data() + place.offset, written.bytes().data());
  EXPECT_EQ(*ns_->Commit(std::move(written)), CommitOutcome::kStored);
  const auto read = ns_.Lookup("k");
  EXPECT_EQ(read->place().chunk, place.chunk);
  EXPECT_EQ(read->place().offset, place.offset);
}

bool CanMap(const UniqueFd& fd, int protection) {
  void* base = mmap(nullptr, 4096, protection, MAP_SHARED, fd.get(), 0);
  if (base != MAP_FAILED) munmap(base, 4096);
  return base != MAP_FAILED;
}

TEST_F(ClientPages, ChunksAreHandedOutAsTheirReaderMayUseThem) {
  const auto reader = ns_->OpenChunk(0, /*writable=*/false);
  const auto writer = ns_->OpenChunk(0, /*writable=*/true);
  ASSERT_TRUE(reader.ok() && writer.ok());
  EXPECT_TRUE(CanMap(*reader, PROT_READ));
  EXPECT_FALSE(CanMap(*reader, PROT_READ | PROT_WRITE));
  EXPECT_TRUE(CanMap(*writer, PROT_READ | PROT_WRITE));
  EXPECT_NE(fcntl(reader->get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(ClientPages, ArenaThatNobodyMayWriteIsSealed) {
  OpenStore({.capacity_bytes = 4 * kMiB, .background = false});
  client_.reset();
  ns_ = Create(NamespaceSpec{.name = "sealed", .quota_bytes = kMiB, .writable_by_clients = false});
  client_ = std::make_unique<ShmClient>(ns_.shared());
  // Even the descriptor that the daemon itself keeps.
  const auto fd = ns_->OpenChunk(0, /*writable=*/true);
  ASSERT_TRUE(fd.ok());
  EXPECT_FALSE(CanMap(*fd, PROT_READ | PROT_WRITE));
  EXPECT_TRUE(CanMap(*fd, PROT_READ));
  ns_.MustPut("k", "the daemon still writes");
  EXPECT_EQ(ns_.Get("k"), "the daemon still writes");
}

}  // namespace
}  // namespace infercache::store
