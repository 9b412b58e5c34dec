#include <gmock/gmock.h>

#include "common/limits.h"
#include "tests/local/local_fixture.h"

namespace infercache::local {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LocalPuts : public LocalFixture {
 protected:
  LocalPuts() : ns_(Create("default")) {}

  store::NamespaceVerbs ns_;
};

TEST_F(LocalPuts, AValueWrittenInPlaceIsVisibleOnceCommitted) {
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 5);
  ASSERT_NE(place.reservation(), 0u);
  worker.WriteInPlace(place, "value");
  EXPECT_FALSE(ns_.Has("key"));
  EXPECT_EQ(worker.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(ns_.Get("key"), "value");
  EXPECT_EQ(worker.Get("key", clock_.NowMs()), "value");
}

TEST_F(LocalPuts, ABatchAnswersEachItemInItsPlace) {
  ns_.MustPut("there", "old");
  Serve();
  Worker worker = Open();
  const auto items = worker.ReserveAll(
      {MakeItem("big", 64 * kMiB), MakeItem("there", 3), MakeItem("", 1), MakeItem("new", 4)});
  ASSERT_EQ(items.size(), 4u);
  EXPECT_EQ(items[0].code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(items[0].message(), HasSubstr("chunks"));
  EXPECT_TRUE(items[1].exists());
  EXPECT_EQ(items[2].code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(items[0].reservation() + items[1].reservation() + items[2].reservation(), 0u);
  EXPECT_NE(items[3].reservation(), 0u);
}

TEST_F(LocalPuts, AnOverwriteReplacesTheWholeObject) {
  ns_.MustPut("key", "old");
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 3, /*overwrite=*/true);
  worker.WriteInPlace(place, "new");
  EXPECT_EQ(ns_.Get("key"), "old");
  EXPECT_EQ(worker.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(ns_.Get("key"), "new");
}

TEST_F(LocalPuts, OfTwoReservationsTheFirstCommitWins) {
  Serve();
  Worker a = Open(), b = Open();
  const v1::ReservedItem first = a.Reserve("key", 1), second = b.Reserve("key", 1);
  b.WriteInPlace(second, "b");
  EXPECT_EQ(b.Commit(second.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(a.Commit(first.reservation()).outcome(), v1::LOCAL_PUT_EXISTS);
  EXPECT_EQ(ns_.Get("key"), "b");
}

TEST_F(LocalPuts, ABatchMeansWhatItsItemsOneByOneWouldMean) {
  Serve();
  Worker worker = Open();
  const auto items = worker.ReserveAll({MakeItem("key", 1), MakeItem("key", 1)});
  worker.WriteInPlace(items[0], "1");
  worker.WriteInPlace(items[1], "2");
  const auto results = worker.CommitAll({items[0].reservation(), items[1].reservation()});
  EXPECT_EQ(results[0].outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(results[1].outcome(), v1::LOCAL_PUT_EXISTS);
  EXPECT_EQ(ns_.Get("key"), "1");
}

TEST_F(LocalPuts, TheHeadOfACommittedChainIsItsMostRecentlyUsed) {
  Serve();
  Worker worker = Open();
  const auto items =
      worker.ReserveAll({MakeItem("head", kMaxInlineBytes), MakeItem("middle", kMaxInlineBytes),
                         MakeItem("tail", kMaxInlineBytes)});
  worker.CommitAll({items[0].reservation(), items[1].reservation(), items[2].reservation()});
  EXPECT_EQ(FirstToGo(std::move(worker), ns_, {"head", "middle", "tail"}), "tail");
}

TEST_F(LocalPuts, ReservingAChainThatIsThereUsesItsHeadLast) {
  for (const char* key : {"tail", "middle", "head"}) {
    ns_.MustPut(key, std::string(kMaxInlineBytes, 'v'));
  }
  Serve();
  Worker worker = Open();
  worker.ReserveAll({MakeItem("head", 1), MakeItem("middle", 1), MakeItem("tail", 1)});
  EXPECT_EQ(FirstToGo(std::move(worker), ns_, {"head", "middle", "tail"}), "tail");
}

TEST_F(LocalPuts, TheHeadOfAChainPutInlineIsItsMostRecentlyUsed) {
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  for (const char* key : {"head", "middle", "tail"}) {
    v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
    *item.mutable_object() = MakeItem(key, kMaxInlineBytes);
    item.set_value(std::string(kMaxInlineBytes, 'v'));
  }
  ASSERT_TRUE(worker.raw().Ask(request).ok());
  EXPECT_EQ(FirstToGo(std::move(worker), ns_, {"head", "middle", "tail"}), "tail");
}

// The use of the parent was still in the ring, so it counted as one of two minutes ago, behind
// which nothing is put: its child outlived it.
class LocalChains : public LocalFixture, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Puts, LocalChains, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Inline" : "Committed"; });

TEST_P(LocalChains, GoOnBehindWhatTheirClientHasJustUsed) {
  const store::NamespaceVerbs ns = Create({.name = "fifo", .quota_bytes = kMiB, .policy = "fifo"});
  ns.MustPut("parent", std::string(kMaxInlineBytes, 'p'));
  clock_.AdvanceMs(120'000);
  ns.MustPut("later", std::string(kMaxInlineBytes, 'l'));
  Serve();
  Worker worker = Open({.namespace_name = "fifo"});
  worker.Get("parent", clock_.NowMs(), 0, /*keep_pin=*/true);
  v1::ReserveItem child = MakeItem("child", kMaxInlineBytes);
  child.mutable_info()->set_parent_key("parent");
  v1::LocalRequest request;
  if (GetParam()) {
    v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
    *item.mutable_object() = child;
    item.set_value(std::string(kMaxInlineBytes, 'c'));
  } else {
    request.mutable_commit()->add_reservations(worker.ReserveAll({child})[0].reservation());
  }
  shm::SessionPage page = worker.raw().page();
  page.touch(0, 0).store(shm::MakeTouch(page.slot(0).load(), true));
  page.slot(0).store(0);
  page.lane(0).touched.store(1);
  ASSERT_TRUE(worker.raw().Ask(request).ok());
  EXPECT_EQ(FirstToGo(std::move(worker), ns, {"parent", "later", "child"}), "child");
}

TEST_F(LocalPuts, AnAbortGivesTheBytesBack) {
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 100'000);
  EXPECT_GT(ns_->Stats().reserved_bytes, 0u);
  worker.Abort({place.reservation(), 4711});
  EXPECT_EQ(ns_->Stats().reserved_bytes, 0u);
  const v1::LocalPutResult result = worker.Commit(place.reservation());
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kNotFound));
}

TEST_F(LocalPuts, AReservationIsCommittedOnce) {
  Serve();
  Worker worker = Open();
  const v1::ReservedItem place = worker.Reserve("key", 3);
  const auto results = worker.CommitAll({place.reservation(), place.reservation()});
  EXPECT_EQ(results[0].outcome() + results[1].outcome(),
            v1::LOCAL_PUT_STORED + v1::LOCAL_PUT_REFUSED);
}

TEST_F(LocalPuts, AReservationBelongsToItsSession) {
  Serve();
  Worker owner = Open(), thief = Open();
  const v1::ReservedItem place = owner.Reserve("key", 3);
  EXPECT_EQ(thief.Commit(place.reservation()).code(),
            static_cast<uint32_t>(absl::StatusCode::kNotFound));
  thief.Abort({place.reservation()});
  owner.WriteInPlace(place, "abc");
  EXPECT_EQ(owner.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
}

TEST_F(LocalPuts, InlinePutsCarryTheirBytes) {
  Serve();
  Worker worker = Open();
  EXPECT_EQ(worker.PutInline("key", "value").outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.PutInline("key", "other").outcome(), v1::LOCAL_PUT_EXISTS);
  EXPECT_EQ(worker.PutInline("empty", "").outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.Get("key", clock_.NowMs()), "value");
  EXPECT_EQ(ns_.Get("empty"), "");
}

TEST_F(LocalPuts, AnInlineValueHasTheSizeItClaims) {
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  for (const uint64_t size : {4, 6}) {
    v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
    *item.mutable_object() = MakeItem("key", size);
    item.set_value("value");
  }
  const auto received = worker.raw().Ask(request);
  ASSERT_TRUE(received.ok()) << received.status();
  for (const v1::LocalPutResult& result : received->response.put_results().results()) {
    EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(result.message(), HasSubstr("size_bytes"));
  }
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

TEST_F(LocalPuts, DescriptionsComeBackAsTheyWentIn) {
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  v1::PutInlineItem& item = *request.mutable_put_inline()->add_items();
  *item.mutable_object() = MakeItem("key", 24);
  item.set_value(std::string(24, 'x'));
  v1::PartSpec& part = *item.mutable_object()->add_parts();
  part.set_dtype(v1::DATA_TYPE_FLOAT32);
  part.add_shape(2);
  part.add_shape(3);
  part.set_size_bytes(24);
  item.mutable_object()->mutable_info()->set_kind(v1::OBJECT_KIND_KV);
  item.mutable_object()->mutable_info()->set_compute_cost_ms(12.5F);
  item.mutable_object()->mutable_info()->set_class_id(3);
  ASSERT_TRUE(worker.raw().Ask(request).ok());

  const auto found = worker.Lookup({"key"});
  const v1::ObjectDescription& object = found[0].object();
  EXPECT_EQ(object.size_bytes(), 24u);
  EXPECT_EQ(object.info().kind(), v1::OBJECT_KIND_KV);
  EXPECT_EQ(object.info().compute_cost_ms(), 12.5F);
  EXPECT_EQ(object.info().class_id(), 3u);
  ASSERT_EQ(object.parts_size(), 1);
  EXPECT_THAT(object.parts(0).shape(), ElementsAre(2, 3));
}

TEST_F(LocalPuts, WhatDoesNotFitTheVocabularyIsRefused) {
  Serve();
  Worker worker = Open();
  std::vector<v1::ReserveItem> items(4, MakeItem("key", 1));
  items[0].mutable_info()->set_kind(static_cast<v1::ObjectKind>(256));  // 0 in eight bits
  items[1].mutable_info()->set_class_id(256);
  items[2].add_parts()->set_dtype(static_cast<v1::DataType>(256));
  items[3].mutable_info()->set_ttl_ms(kMaxTtlMs + 1);
  for (const v1::ReservedItem& item : worker.ReserveAll(items)) {
    EXPECT_EQ(item.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument))
        << item.ShortDebugString();
  }
}

class LocalSending : public LocalFixture {
 protected:
  LocalSending()
      : ns_(Create(store::NamespaceSpec{
            .name = "default", .quota_bytes = kMiB, .writable_by_clients = false})) {}

  store::NamespaceVerbs ns_;
};

TEST_F(LocalSending, AClientThatMayNotWriteInPlaceSendsItsBytes) {
  Serve();
  Worker worker = Open();
  EXPECT_EQ(worker.welcome().put_access(), v1::Welcome::PUT_ACCESS_SEND);
  const v1::ReservedItem place = worker.Reserve("key", 10);
  worker.SendWrite(place.reservation(), 0, "hello");
  worker.SendWrite(place.reservation(), 5, "world");
  EXPECT_EQ(worker.Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  EXPECT_EQ(worker.Get("key", clock_.NowMs()), "helloworld");
}

TEST_F(LocalSending, TheKernelRefusesAWritableMapping) {
  Serve();
  Worker worker = Open();
  v1::LocalRequest request;
  request.mutable_map_chunks();
  const auto received = worker.raw().Ask(request);
  ASSERT_TRUE(received.ok()) << received.status();
  ASSERT_EQ(received->descriptors.size(), 1u);
  EXPECT_FALSE(SharedMapping::Map(received->descriptors[0].get(), 4096, true).ok());
}

// Lengths were added up, whatever they covered: the object kept bytes of whoever had the place
// before.
TEST_F(LocalSending, WritesComeInOrderWithoutGapOrOverlap) {
  Serve();
  Worker worker = Open();
  const auto items = worker.ReserveAll(
      {MakeItem("twice", 10), MakeItem("overlap", 10), MakeItem("gap", 10), MakeItem("back", 10)});
  worker.SendWrite(items[0].reservation(), 0, "hello");
  worker.SendWrite(items[0].reservation(), 0, "hello");
  worker.SendWrite(items[1].reservation(), 0, "hello");
  worker.SendWrite(items[1].reservation(), 4, "oworld");
  worker.SendWrite(items[2].reservation(), 0, "hell");
  worker.SendWrite(items[2].reservation(), 5, "world");
  worker.SendWrite(items[3].reservation(), 5, "world");
  worker.SendWrite(items[3].reservation(), 0, "hello");
  for (const v1::ReservedItem& item : items) {
    const v1::LocalPutResult result = worker.Commit(item.reservation());
    EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(result.message(), HasSubstr("in order"));
  }
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

TEST_F(LocalSending, WhatIsWrongWithAWriteShowsAtCommit) {
  Serve();
  Worker worker = Open();
  const auto items =
      worker.ReserveAll({MakeItem("beyond", 10), MakeItem("overflow", 10), MakeItem("partly", 10)});
  worker.SendWrite(items[0].reservation(), 0, "hello");
  worker.SendWrite(items[0].reservation(), 5, "worlds");
  worker.SendWrite(items[1].reservation(), UINT64_MAX, "world");
  worker.SendWrite(items[2].reservation(), 0, "hello");
  const auto results =
      worker.CommitAll({items[0].reservation(), items[1].reservation(), items[2].reservation()});
  EXPECT_EQ(results[0].code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(results[1].code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(results[2].code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(results[2].message(), HasSubstr("only 5 of 10"));
  EXPECT_EQ(ns_->Stats().used_bytes, 0u);
}

}  // namespace
}  // namespace infercache::local
