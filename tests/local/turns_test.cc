// Requests of many items, between which others have their turn.

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

// An item a turn.
constexpr absl::Duration kShortest = absl::Nanoseconds(1);

class LocalTurns : public LocalFixture {
 protected:
  static std::vector<v1::ReserveItem> Items(int count, uint64_t bytes) {
    std::vector<v1::ReserveItem> items;
    for (int i = 0; i < count; ++i) items.push_back(MakeItem(absl::StrCat("key", i), bytes));
    return items;
  }
  static std::vector<uint64_t> Ids(const std::vector<v1::ReservedItem>& items) {
    std::vector<uint64_t> ids;
    for (const v1::ReservedItem& item : items) ids.push_back(item.reservation());
    return ids;
  }
};

// A frame of a few bytes kept all sessions of its thread waiting for seconds.
TEST_F(LocalTurns, OthersHaveTheirsBetweenTheItemsOfARequest) {
  const auto ns = Create("default", 16 * kMiB, 250'000);
  Serve({.threads = 1});
  Worker worker = Open(), other = Open();
  constexpr int kTiny = 240'000;
  for (int i = 0; i < kTiny;) {
    v1::LocalRequest fill;
    for (size_t k = 0; k < kMaxItemsPerFrame && i < kTiny; ++k, ++i) {
      v1::PutInlineItem& item = *fill.mutable_put_inline()->add_items();
      *item.mutable_object() = MakeItem(absl::StrCat(i), 1);
      item.set_value("x");
    }
    ASSERT_TRUE(worker.raw().Ask(fill).ok());
  }
  v1::LocalRequest request;
  request.set_id(77);
  for (const v1::ReserveItem& item : Items(8, kMiB)) {
    *request.mutable_reserve()->add_items() = item;
  }
  ASSERT_TRUE(worker.raw().Send(request).ok());
  other.Ping();
  const auto early = worker.raw().Receive(absl::ZeroDuration());
  EXPECT_EQ(early.status().code(), absl::StatusCode::kDeadlineExceeded) << "it was done first";
  const auto answer = worker.raw().Receive();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->response.reserved().items_size(), 8);
  EXPECT_GT(ns->Stats().evicted, 50'000u) << "nothing that takes long";
}

TEST_F(LocalTurns, ABatchOfManyIsOneBatch) {
  const auto ns = Create("default");
  ns.MustPut("key7", "there");
  Serve({.turn = kShortest});
  Worker worker = Open();
  const auto places = worker.ReserveAll(Items(300, 3));
  ASSERT_EQ(places.size(), 300u);
  for (size_t i = 0; i < places.size(); ++i) {
    EXPECT_EQ(places[i].exists(), i == 7) << i;
    EXPECT_EQ(places[i].code(), 0u) << i;
    if (i != 7) worker.WriteInPlace(places[i], "abc");
  }
  std::vector<uint64_t> ids = Ids(places);
  ids[7] = 4711;
  const auto results = worker.CommitAll(ids);
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].outcome(), i == 7 ? v1::LOCAL_PUT_REFUSED : v1::LOCAL_PUT_STORED) << i;
  }
  std::vector<std::string> keys;
  for (int i = 0; i < 301; ++i) keys.push_back(absl::StrCat("key", i));
  const auto found = worker.Lookup(keys);
  ASSERT_EQ(found.size(), 301u);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].lease() != 0, i < 300) << i;
  EXPECT_EQ(worker.BytesOf(found[7]), "there");
  EXPECT_EQ(worker.BytesOf(found[299]), "abc");
  v1::LocalRequest remove;
  for (const std::string& key : keys) remove.mutable_remove()->add_keys(key);
  const auto removed = worker.raw().Ask(remove);
  ASSERT_TRUE(removed.ok()) << removed.status();
  std::string all(38, '\xff');
  all.back() = 0x0f;  // 300 of 301
  EXPECT_EQ(removed->response.removed().removed(), all);
  EXPECT_EQ(ns->Stats().objects, 0u);
}

TEST_F(LocalTurns, WhatIsAskedAfterABatchIsAnsweredAfterIt) {
  Create("default");
  Serve({.turn = kShortest});
  Worker worker = Open();
  v1::LocalRequest reserve, ping;
  for (const v1::ReserveItem& item : Items(100, 3)) *reserve.mutable_reserve()->add_items() = item;
  ping.mutable_ping();
  std::string bytes;
  for (uint64_t id = 101; id <= 106; ++id) {
    v1::LocalRequest& request = id % 2 == 0 ? ping : reserve;
    request.set_id(id);
    bytes += RawClient::EncodeFrame(request.SerializeAsString());
  }
  ASSERT_TRUE(worker.raw().SendBytes(bytes).ok());
  for (uint64_t id = 101; id <= 106; ++id) {
    const auto answer = worker.raw().Receive();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->response.id(), id);
  }
}

TEST_F(LocalTurns, ALookupThatFailsInTheMiddleKeepsNoLease) {
  const auto ns = Create("default");  // a budget of a quarter of a MiB
  std::vector<std::string> keys;
  for (int i = 0; i < 8; ++i) {
    keys.push_back(absl::StrCat("key", i));
    ns.MustPut(keys.back(), std::string(64 * 1024, 'x'));
  }
  Serve({.turn = kShortest});
  Worker worker = Open();
  v1::LocalRequest request;
  for (const std::string& key : keys) request.mutable_lookup()->add_keys(key);
  EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kResourceExhausted);
  keys.resize(4);
  for (const v1::FoundItem& item : worker.Lookup(keys)) EXPECT_NE(item.lease(), 0u);
}

// The fixture asks whether all of it is given back.
TEST_F(LocalTurns, ASessionMayEndInTheMiddle) {
  const auto ns = Create("default", 16 * kMiB);
  Serve({.turn = kShortest});
  for (int round = 0; round < 5; ++round) {
    Worker worker = Open();
    const auto ids = Ids(worker.ReserveAll(Items(2000, 3)));
    v1::LocalRequest request;
    request.set_id(9'999);
    for (const uint64_t id : ids) request.mutable_commit()->add_reservations(id);
    ASSERT_TRUE(worker.raw().Send(request).ok());
    ASSERT_TRUE(Eventually([&] { return ns->Stats().objects > 0; }));
    if (round == 4) server_->Shutdown(absl::InfinitePast());
    worker.raw().Close();
    EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == 0; }));
    ns->Flush("");
  }
}

}  // namespace
}  // namespace infercache::local
