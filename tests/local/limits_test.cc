// The limits of common/limits.h that the lane keeps: the value itself is legal, one more is not.

#include "common/limits.h"

#include <gmock/gmock.h>

#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::HasSubstr;

class LocalLimits : public LocalFixture {
 protected:
  LocalLimits() : ns_(Create("default", 16 * kMiB, 200'000)) {}

  // `make(n)` is a request of n items.
  template <class Make>
  void ExpectItemLimit(Make make) {
    Worker good = Open();
    const auto answered = good.raw().Ask(make(kMaxItemsPerFrame));
    EXPECT_TRUE(answered.ok()) << answered.status();
    Worker bad = Open();
    EXPECT_EQ(bad.raw().Ask(make(kMaxItemsPerFrame + 1)).status().code(),
              absl::StatusCode::kUnavailable);
    EXPECT_THAT(Log(), HasSubstr("the limit is 4096"));
    EXPECT_EQ(Ended(EndReason::kProtocol), 1u);
  }

  store::NamespaceVerbs ns_;
};

TEST_F(LocalLimits, ItemsOfAReserve) {
  Serve();
  ExpectItemLimit([](size_t n) {
    v1::LocalRequest request;
    for (size_t i = 0; i < n; ++i) {
      *request.mutable_reserve()->add_items() = MakeItem("k" + std::to_string(i), 1);
    }
    return request;
  });
}

TEST_F(LocalLimits, ItemsOfACommit) {
  Serve();
  ExpectItemLimit([](size_t n) {
    v1::LocalRequest request;
    for (size_t i = 0; i < n; ++i) request.mutable_commit()->add_reservations(i);
    return request;
  });
}

TEST_F(LocalLimits, ItemsOfAnAbort) {
  Serve();
  ExpectItemLimit([](size_t n) {
    v1::LocalRequest request;
    for (size_t i = 0; i < n; ++i) request.mutable_abort()->add_reservations(i);
    return request;
  });
}

TEST_F(LocalLimits, ItemsOfAPutInline) {
  Serve();
  ExpectItemLimit([](size_t n) {
    v1::LocalRequest request;
    for (size_t i = 0; i < n; ++i) {
      v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
      *item.mutable_object() = MakeItem("k" + std::to_string(i), 1);
      item.set_value("v");
    }
    return request;
  });
}

TEST_F(LocalLimits, KeysOfALookup) {
  Serve();
  ExpectItemLimit([](size_t n) {
    v1::LocalRequest request;
    for (size_t i = 0; i < n; ++i) request.mutable_lookup()->add_keys("k");
    return request;
  });
}

TEST_F(LocalLimits, KeysOfARemove) {
  Serve();
  ExpectItemLimit([](size_t n) {
    v1::LocalRequest request;
    for (size_t i = 0; i < n; ++i) request.mutable_remove()->add_keys("k");
    return request;
  });
}

TEST_F(LocalLimits, KeyBytes) {
  Serve();
  Worker worker = Open();
  const std::string longest(kMaxKeyBytes, 'k'), too_long(kMaxKeyBytes + 1, 'k');
  EXPECT_EQ(worker.PutInline(longest, "v").outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.PutInline(too_long, "v").code(),
            static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_NE(worker.Lookup({longest})[0].lease(), 0u);
  EXPECT_EQ(worker.Remove({longest}), "1");
  v1::LocalRequest lookup, remove, list;
  lookup.mutable_lookup()->add_keys(too_long);
  remove.mutable_remove()->add_keys("");
  list.mutable_list_keys()->set_key_prefix(too_long);
  for (const v1::LocalRequest& request : {lookup, remove, list}) {
    EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(LocalLimits, InlineBytes) {
  Serve();
  Worker worker = Open();
  EXPECT_EQ(worker.PutInline("most", std::string(kMaxInlineBytes, 'v')).outcome(),
            v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.PutInline("more", std::string(kMaxInlineBytes + 1, 'v')).code(),
            static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
}

TEST_F(LocalLimits, WriteBytes) {
  Serve();
  Worker worker = Open();
  const auto items = worker.ReserveAll(
      {MakeItem("most", kMaxWriteBytes + 1), MakeItem("more", kMaxWriteBytes + 1)});
  worker.SendWrite(items[0].reservation(), 0, std::string(kMaxWriteBytes, 'v'));
  worker.SendWrite(items[1].reservation(), 0, std::string(kMaxWriteBytes + 1, 'v'));
  EXPECT_EQ(worker.Commit(items[0].reservation()).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.Commit(items[1].reservation()).code(),
            static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
}

TEST_F(LocalLimits, ReservationsOfASession) {
  Serve();
  Worker worker = Open();
  std::vector<uint64_t> some;
  for (size_t held = 0; held < kMaxReservationsPerSession; held += kMaxItemsPerFrame) {
    std::vector<v1::ReserveItem> items;
    for (size_t i = 0; i < kMaxItemsPerFrame; ++i) {
      items.push_back(MakeItem("k" + std::to_string(held + i), 1));
    }
    const auto reserved = worker.ReserveAll(items);
    ASSERT_NE(reserved.back().reservation(), 0u) << reserved.back().message();
    some = {reserved[0].reservation()};
  }
  const v1::ReservedItem refused = worker.Reserve("one more", 1);
  EXPECT_EQ(refused.code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(refused.message(), HasSubstr("65536"));
  worker.Abort(some);
  EXPECT_NE(worker.Reserve("one more", 1).reservation(), 0u);
}

// One session could hold every record of the namespace with reservations of one byte.
TEST_F(LocalLimits, ReservationsOfASessionAreHalfOfTheRecords) {
  Create("few", kMiB, 200);
  Create("fewest", kMiB, 100);
  Serve({.reservation_timeout = absl::Milliseconds(1)});  // expired ones count too
  // Not a structured binding: clang 14 captures none.
  for (const auto& limit : {std::pair{"few", 100}, {"fewest", 64}}) {
    const int most = limit.second;
    Worker worker = Open({.namespace_name = limit.first});
    std::vector<v1::ReserveItem> items;
    for (int i = 0; i <= most; ++i) items.push_back(MakeItem("k" + std::to_string(i), 1));
    const auto reserved = worker.ReserveAll(items);
    EXPECT_NE(reserved[most - 1].reservation(), 0u) << reserved[most - 1].message();
    EXPECT_EQ(reserved[most].code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(reserved[most].message(), HasSubstr("holds " + std::to_string(most)));
    EXPECT_TRUE(Eventually(
        [&] { return server_->stats().quarantined_reservations == static_cast<uint64_t>(most); }));
    EXPECT_EQ(worker.Reserve("one more", 1).reservation(), 0u);
    worker.Abort({reserved[0].reservation()});
    EXPECT_NE(worker.Reserve("one more", 1).reservation(), 0u);
    worker.raw().Close();
    server_->Shutdown(absl::InfinitePast());
    Serve({.reservation_timeout = absl::Milliseconds(1)});
  }
}

TEST_F(LocalLimits, ReservedBytesOfASession) {
  Serve();
  Worker worker = Open();
  const v1::ReservedItem first = worker.Reserve("a", 4 * kMiB);
  EXPECT_NE(worker.Reserve("b", 4 * kMiB).reservation(), 0u);
  const v1::ReservedItem refused = worker.Reserve("c", 1);
  EXPECT_EQ(refused.code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(refused.message(), HasSubstr("half of the namespace"));
  EXPECT_EQ(worker.PutInline("inline", "v").outcome(), v1::LOCAL_PUT_STORED);
  worker.Abort({first.reservation()});
  EXPECT_NE(worker.Reserve("c", 1).reservation(), 0u);
}

TEST_F(LocalLimits, ASingleReservationMayBeLargerThanTheShare) {
  Serve();
  Worker worker = Open();
  EXPECT_NE(worker.Reserve("large", 15 * kMiB).reservation(), 0u);
}

TEST_F(LocalLimits, LeasesOfASession) {
  ns_.MustPut("key", "v");
  Serve();
  Worker worker = Open();
  const auto found = worker.Lookup(std::vector<std::string>(kMaxLeasesPerSession, "key"));
  EXPECT_NE(found.back().lease(), 0u);
  v1::LocalRequest one_more;
  one_more.mutable_lookup()->add_keys("key");
  EXPECT_EQ(worker.raw().Ask(one_more).status().code(), absl::StatusCode::kResourceExhausted);
  worker.Release({found[0].lease()});
  EXPECT_NE(worker.Lookup({"key"})[0].lease(), 0u);
}

TEST_F(LocalLimits, ALookupThatFailsKeepsNoLease) {
  ns_.MustPut("key", "v");
  Serve();
  Worker worker = Open();
  worker.Lookup({"key"});
  v1::LocalRequest request;
  for (size_t i = 0; i < kMaxLeasesPerSession; ++i) request.mutable_lookup()->add_keys("key");
  EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ns_->Stats().pins, 1u);
}

TEST_F(LocalLimits, LeasedBytes) {
  ns_.MustPut("a", std::string(3 * kMiB, 'a'));
  ns_.MustPut("b", std::string(1 * kMiB, 'b'));
  ns_.MustPut("huge", std::string(5 * kMiB, 'h'));
  Serve();  // the budget is 4 MiB
  Worker worker = Open();
  const auto found = worker.Lookup({"a", "b"});
  v1::LocalRequest request;
  request.mutable_lookup()->add_keys("b");
  EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kResourceExhausted);
  worker.Release({found[0].lease(), found[1].lease()});
  EXPECT_NE(worker.Lookup({"huge"})[0].lease(), 0u) << "one object is always allowed";
}

TEST_F(LocalLimits, ListedKeysOfAPage) {
  Serve();
  Worker worker = Open();
  worker.ListKeys("", kMaxListPageSize);
  v1::LocalRequest request;
  request.mutable_list_keys()->set_page_size(kMaxListPageSize + 1);
  EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LocalLimits, Slots) {
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  request.mutable_grow_slots()->set_slots(kMaxPinSlots);
  EXPECT_EQ(worker.raw().Ask(request)->response.slots_granted().slot_limit(), kMaxPinSlots);
  request.mutable_grow_slots()->set_slots(kMaxPinSlots + 1);
  EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LocalLimits, SlotsOfAllSessionsOfAUser) {
  Serve({.pin_slots = 1});
  v1::LocalRequest request;
  request.mutable_grow_slots()->set_slots(kMaxPinSlots);
  std::vector<Worker> workers;
  for (uint64_t grown = 0; grown + kMaxPinSlots - 1 <= kMaxGrownPinSlotsPerUser;
       grown += kMaxPinSlots - 1) {
    workers.push_back(Open());
    ASSERT_TRUE(workers.back().raw().Ask(request).ok());
    ASSERT_TRUE(workers.back().raw().Ask(request).ok()) << "what it has costs nothing";
  }
  Worker last = Open();
  const absl::Status refused = last.raw().Ask(request).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the limit of one user is 4194304"));
  const uint64_t sessions = server_->stats().sessions;
  workers.pop_back();
  EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == sessions - 1; }));
  EXPECT_TRUE(last.raw().Ask(request).ok());
}

TEST_F(LocalLimits, DescriptorsOfAChunk) {
  Serve();
  Worker worker = Open();  // mapped them once
  v1::LocalRequest request;
  request.mutable_map_chunks();
  for (uint64_t i = 1; i < kMaxSendsPerChunk; ++i) EXPECT_TRUE(worker.raw().Ask(request).ok());
  EXPECT_EQ(worker.raw().Ask(request).status().code(), absl::StatusCode::kResourceExhausted);
}

// Each holds a descriptor of the daemon, and one user could take them all by opening, reserving and
// closing again and again.
TEST_F(LocalLimits, QuarantinedSessionsOfAUser) {
  Serve();
  for (size_t i = 1; i <= kMaxQuarantinedSessionsPerUser; ++i) {
    {
      Worker worker = Open();
      ASSERT_NE(worker.Reserve("k" + std::to_string(i), 1).reservation(), 0u);
    }
    ASSERT_TRUE(Eventually([&] { return server_->stats().sessions == 0; }));
    ASSERT_EQ(server_->stats().quarantined_reservations, i);
  }
  const absl::Status refused = TryOpen({});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the limit is 256 of one user"));
  EXPECT_EQ(server_->stats().quarantined_reservations, kMaxQuarantinedSessionsPerUser);
}

TEST_F(LocalLimits, SessionsOfAUser) {
  Serve({.max_sessions = 8});
  std::vector<Worker> workers;
  for (int i = 0; i < 6; ++i) workers.push_back(Open());
  const absl::Status refused = TryOpen({});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the limit of one user is 6 of 8"));
  workers.pop_back();
  EXPECT_TRUE(Eventually([&] { return server_->stats().sessions == 5; }));
  Open();
}

}  // namespace
}  // namespace infercache::local
