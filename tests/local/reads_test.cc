#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "common/limits.h"
#include "tests/build_kind.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::ElementsAre;

class LocalReads : public LocalFixture {
 protected:
  LocalReads() : ns_(Create("default")) {}

  std::vector<std::string> KeysOf(const v1::KeyPage& page) {
    std::vector<std::string> keys;
    for (const v1::ListedObject& object : page.objects()) keys.push_back(object.key());
    return keys;
  }

  store::NamespaceVerbs ns_;
};

// A line of /proc/self/status.
uint64_t StatusKiB(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1));
  }
  return 0;
}

TEST_F(LocalReads, AHitNeedsNoMessage) {
  ns_.MustPut("key", "value");
  Serve();
  Worker worker = Open();
  const uint64_t before = server_->stats().requests;
  EXPECT_EQ(worker.Get("key", clock_.NowMs()), "value");
  EXPECT_EQ(worker.Get("other", clock_.NowMs()), std::nullopt);
  EXPECT_EQ(server_->stats().requests, before);
}

TEST_F(LocalReads, APinInThePageKeepsItsObject) {
  ns_.MustPut("key", "value");
  Serve();
  {
    Worker worker = Open();
    worker.Get("key", clock_.NowMs(), /*slot=*/7, /*keep_pin=*/true);
    EXPECT_TRUE(ns_.Erase("key"));
    ns_.MaintainAll();
    EXPECT_GT(ns_->Stats().limbo_bytes, 0u);
  }
  ExpectEnds(EndReason::kClosed);
  ns_.MaintainAll();
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u);
}

TEST_F(LocalReads, ALookupLeasesWhatItFinds) {
  ns_.MustPut("a", "first");
  ns_.MustPut("c", "third");
  Serve();
  Worker worker = Open();
  const auto found = worker.Lookup({"a", "b", "c"});
  ASSERT_NE(found[0].lease(), 0u);
  EXPECT_EQ(found[1].lease(), 0u);
  ASSERT_NE(found[2].lease(), 0u);
  ns_.Erase("a");
  ns_.MaintainAll();
  EXPECT_EQ(worker.BytesOf(found[0]), "first");
  EXPECT_EQ(worker.BytesOf(found[2]), "third");
  EXPECT_EQ(ns_->Stats().pins, 2u);
  worker.Release({found[0].lease(), found[2].lease(), 4711});
  worker.Ping();
  EXPECT_EQ(ns_->Stats().pins, 0u);
}

TEST_F(LocalReads, TheEndOfASessionReleasesItsLeases) {
  ns_.MustPut("a", "first");
  Serve();
  {
    Worker worker = Open();
    worker.Lookup({"a"});
    EXPECT_EQ(ns_->Stats().pins, 1u);
  }
  ExpectEnds(EndReason::kClosed);
  EXPECT_EQ(ns_->Stats().pins, 0u);
}

TEST_F(LocalReads, RemoveSaysWhichWereThere) {
  for (const char* key : {"a", "c", "i"}) ns_.MustPut(key, "value");
  Serve();
  Worker worker = Open();
  EXPECT_EQ(worker.Remove({"a", "b", "c", "d", "e", "f", "g", "h", "i"}), "101000001");
  EXPECT_EQ(worker.Remove({"a"}), "0");
  EXPECT_EQ(ns_->Stats().objects, 0u);
}

TEST_F(LocalReads, ListingGoesPageByPage) {
  for (const char* key : {"b1", "a1", "a3", "a2", "c1"}) ns_.MustPut(key, "value");
  Serve();
  Worker worker = Open();
  const v1::KeyPage first = worker.ListKeys("a", 2);
  EXPECT_THAT(KeysOf(first), ElementsAre("a1", "a2"));
  EXPECT_EQ(first.objects(0).object().size_bytes(), 5u);
  const v1::KeyPage second = worker.ListKeys("a", 2, first.next_page_token());
  EXPECT_THAT(KeysOf(second), ElementsAre("a3"));
  EXPECT_EQ(second.next_page_token(), "");
  EXPECT_THAT(KeysOf(worker.ListKeys()), ElementsAre("a1", "a2", "a3", "b1", "c1"));
}

// 4,096 equal parts are a few bytes of the index, and take a hundred thousand where they are told.
TEST_F(LocalReads, AListOfObjectsWithManyPartsTakesNoMoreThanItsAnswer) {
  constexpr int kObjects = 1'500;
  const auto many = Create("many", 16 * kMiB);
  store::PutOptions options;
  options.parts.assign(kMaxParts, {.dtype = DataType::kBytes, .shape = {}, .size_bytes = 1});
  for (int i = 0; i < kObjects; ++i) {
    many.MustPut(std::to_string(i), std::string(kMaxParts, 'v'), options);
  }
  Serve();
  Worker worker = Open({.namespace_name = "many"});
  std::ofstream("/proc/self/clear_refs") << 5;  // the most from here on
  const uint64_t before = StatusKiB("VmHWM");
  EXPECT_GT(worker.ListKeys("", kMaxListPageSize).objects_size(), 1);
  if (kThreadSanitizer || kAddressSanitizer) return;  // whose memory this is not
  EXPECT_LT(StatusKiB("VmHWM") - before, uint64_t{80} << 10) << "KiB";
}

TEST_F(LocalReads, AListThatDoesNotFitAFrameIsCutAndGoesOn) {
  const auto big = Create("big", 16 * kMiB);
  for (int i = 0; i < 2'000; ++i) {
    big.MustPut(std::to_string(10'000 + i) + std::string(1'000, 'k'), "v");
  }
  Serve();
  Worker worker = Open({.namespace_name = "big"});
  size_t listed = 0;
  int pages = 0;
  for (std::string token;; ++pages) {
    const v1::KeyPage page = worker.ListKeys("", 10'000, token);
    listed += page.objects_size();
    token = page.next_page_token();
    if (token.empty()) break;
  }
  EXPECT_EQ(listed, 2'000u);
  EXPECT_EQ(pages, 1);
}

// Each walks over all keys, on the thread that served every other session too.
TEST_F(LocalReads, ListingsHoldUpNobody) {
  constexpr int kListings = 10;
  constexpr int kKeys = Scaled(100'000);
  const auto large = Create("large", 32 * kMiB, kKeys);
  for (int i = 0; i < kKeys; ++i) large.MustPut(std::to_string(i), "v");
  Serve({.threads = 1});
  Worker lister = Open({.namespace_name = "large"});
  Worker other = Open();
  std::atomic<bool> listed{false};
  std::thread thread([&] {
    for (int i = 0; i < kListings; ++i) EXPECT_EQ(lister.ListKeys("", 1).objects_size(), 1);
    listed = true;
  });
  using std::chrono::steady_clock;
  const auto start = steady_clock::now();
  std::vector<steady_clock::duration> waits;
  while (!listed) {
    const auto asked = steady_clock::now();
    other.Ping();
    waits.push_back(steady_clock::now() - asked);
  }
  thread.join();
  // Once a listing, if it did. A machine that is busy with other things does so now and then.
  const auto listing = (steady_clock::now() - start) / kListings;
  EXPECT_LT(std::ranges::count_if(waits, [&](auto wait) { return wait > listing / 2; }),
            kListings / 2);
}

TEST_F(LocalReads, WhatIsAskedAfterAListingIsAnsweredAfterIt) {
  ns_.MustPut("a", "value");
  Serve();
  Worker worker = Open();
  v1::LocalRequest list, remove;
  list.set_id(1);
  list.mutable_list_keys();
  remove.set_id(2);
  remove.mutable_remove()->add_keys("a");
  ASSERT_TRUE(worker.raw().Send(list).ok());
  ASSERT_TRUE(worker.raw().Send(remove).ok());
  const auto listed = worker.raw().Receive();
  ASSERT_TRUE(listed.ok()) << listed.status();
  EXPECT_EQ(listed->response.id(), 1u);
  EXPECT_THAT(KeysOf(listed->response.key_page()), ElementsAre("a"));
  const auto removed = worker.raw().Receive();
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(removed->response.id(), 2u);
  EXPECT_EQ(worker.ListKeys().objects_size(), 0);
}

TEST_F(LocalReads, ASessionMayEndWhileItsListingIsMade) {
  for (int i = 0; i < 1000; ++i) ns_.MustPut(std::to_string(i), "value");
  Serve();
  v1::LocalRequest list;
  list.set_id(1);
  list.mutable_list_keys();
  for (int i = 0; i < 50; ++i) {
    Worker worker = Open();
    ASSERT_TRUE(worker.raw().Send(list).ok());
  }
  EXPECT_TRUE(Eventually([this] { return server_->stats().sessions == 0; }));
}

TEST_F(LocalReads, FingerprintsDoNotMeet) {
  Serve();
  Worker a = Open({.namespace_name = "default", .fingerprint = {{"model", "a"}}});
  Worker b = Open({.namespace_name = "default", .fingerprint = {{"model", "b"}}});
  a.PutInline("key", "value");
  EXPECT_EQ(b.Lookup({"key"})[0].lease(), 0u);
  EXPECT_EQ(b.Remove({"key"}), "0");
  EXPECT_EQ(b.ListKeys().objects_size(), 0);
  EXPECT_NE(a.Lookup({"key"})[0].lease(), 0u);
}

TEST_F(LocalReads, SlotsGrowOnRequestAndNeverShrink) {
  Serve({.pin_slots = 64});
  Worker worker = Open();
  EXPECT_EQ(worker.welcome().slot_limit(), 64u);
  v1::LocalRequest request;
  request.mutable_grow_slots()->set_slots(1'000);
  EXPECT_EQ(worker.raw().Ask(request)->response.slots_granted().slot_limit(), 1'000u);
  request.mutable_grow_slots()->set_slots(10);
  EXPECT_EQ(worker.raw().Ask(request)->response.slots_granted().slot_limit(), 1'000u);
}

TEST_F(LocalReads, ManyChunksComeEightAtATime) {
  OpenStore({.capacity_bytes = 64 * kMiB, .chunk_bytes = kMiB, .background = false});
  ns_ = Create("default", 19 * kMiB);
  Serve();
  Worker worker = Open();
  EXPECT_EQ(worker.welcome().chunk_count(), 19u);
  EXPECT_EQ(worker.raw().mapped_chunks(), 19u);
  v1::LocalRequest request;
  request.mutable_map_chunks()->set_first(19);
  const auto none = worker.raw().Ask(request);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->response.chunks().count(), 0u);
  for (int i = 0; i < 19; ++i) worker.Put("key" + std::to_string(i), std::string(900'000, 'x'));
}

}  // namespace
}  // namespace infercache::local
