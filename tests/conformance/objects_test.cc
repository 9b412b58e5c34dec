// One object at a time: what was put is what is got, when it is replaced, when it goes.

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

template <typename Transport>
using Objects = Conformance<Transport>;
TYPED_TEST_SUITE(Objects, AllTransports, TransportName);

TYPED_TEST(Objects, WhatWasPutIsWhatIsGot) {
  EXPECT_EQ(this->Get("k"), "(miss)");
  EXPECT_EQ(this->Put("k", "value"), PutOutcome::kStored);
  EXPECT_EQ(this->Get("k"), "value");
}

TYPED_TEST(Objects, PartsTypesAndInfoComeBack) {
  const std::string bytes = Pattern(2 * 3 * 2 + 4 * 8 + 5 + 4, 1);
  PutItem item = {.key = "tensors", .value = {Bytes(bytes)}};
  item.parts = {{.dtype = DataType::kBFloat16, .shape = {2, 3}, .size_bytes = 12},
                {.dtype = DataType::kInt64, .shape = {4, 1, 1}, .size_bytes = 32},
                {.dtype = DataType::kBytes, .shape = {}, .size_bytes = 5},
                {.dtype = DataType::kFloat32, .shape = {}, .size_bytes = 4}};
  item.info = {.kind = ObjectKind::kKv,
               .compute_cost_ms = 12.5f,
               .class_id = 15,
               .ttl_ms = 60'000,
               .parent_key = "parent"};
  ASSERT_TRUE(this->PutStatus(item).ok());
  const auto got = this->client_->Get("tensors");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(got.object->parts(), item.parts);
  EXPECT_EQ(Text(got.object->bytes()), bytes);
  EXPECT_EQ(Text(got.object->part(0)), bytes.substr(0, 12));
  EXPECT_EQ(Text(got.object->part(2)), bytes.substr(44, 5));
  EXPECT_EQ(Text(got.object->part(3)), bytes.substr(49));
  const ObjectInfo& info = got.object->info();
  EXPECT_EQ(info.kind, ObjectKind::kKv);
  EXPECT_EQ(info.compute_cost_ms, 12.5f);
  EXPECT_EQ(info.class_id, 15);
  EXPECT_EQ(info.parent_key, "") << "not kept";
  EXPECT_EQ(info.ttl_ms, 60'000u) << "the clock stands still";
}

TYPED_TEST(Objects, EveryDataTypeIsCarried) {
  for (int type = 1; type <= kLastDataType; ++type) {
    const auto dtype = static_cast<DataType>(type);
    const std::string key = DataTypeName(dtype);
    const std::string bytes = Pattern(3 * ElementSize(dtype), 2);
    PutItem item = {.key = key, .value = {Bytes(bytes)}};
    item.parts = {{.dtype = dtype, .shape = {3}, .size_bytes = bytes.size()}};
    ASSERT_TRUE(this->PutStatus(item).ok()) << key;
    const auto got = this->client_->Get(key);
    ASSERT_TRUE(got.hit()) << key << got.status;
    EXPECT_EQ(got.object->parts(), item.parts) << key;
  }
}

TYPED_TEST(Objects, AValueWithoutPartsIsOnePartOfBytes) {
  this->Put("plain", "12345");
  const auto got = this->client_->Get("plain");
  ASSERT_TRUE(got.hit());
  ASSERT_EQ(got.object->parts().size(), 1u);
  EXPECT_EQ(got.object->parts()[0].dtype, DataType::kBytes);
  EXPECT_EQ(got.object->parts()[0].size_bytes, 5u);
}

TYPED_TEST(Objects, AValueIsGatheredFromItsPieces) {
  const PutItem item = {.key = "k", .value = {Bytes("ab"), Bytes(""), Bytes("c"), Bytes("def")}};
  ASSERT_TRUE(this->PutStatus(item).ok());
  EXPECT_EQ(this->Get("k"), "abcdef");
}

TYPED_TEST(Objects, AnObjectThatIsThereStaysAndWins) {
  ASSERT_EQ(this->Put("k", "first"), PutOutcome::kStored);
  EXPECT_EQ(this->Put("k", "second"), PutOutcome::kExists);
  EXPECT_EQ(this->Get("k"), "first");
}

TYPED_TEST(Objects, OverwriteReplacesAllOfIt) {
  ASSERT_EQ(this->Put("k", "first"), PutOutcome::kStored);
  EXPECT_EQ(this->Put("k", "the second one", /*overwrite=*/true), PutOutcome::kStored);
  EXPECT_EQ(this->Get("k"), "the second one");
  EXPECT_EQ(this->daemon().Stats().objects, 1u);
}

TYPED_TEST(Objects, AReaderKeepsWhatItHoldsWhenItIsReplacedOrDeleted) {
  const std::string old = Pattern(1 << 20, 3);
  this->Put("k", old);
  const auto got = this->client_->Get("k");
  ASSERT_TRUE(got.hit());
  this->Put("k", Pattern(1 << 20, 4), /*overwrite=*/true);
  this->Delete({"k"});
  for (int i = 0; i < 8; ++i) this->Put("filler" + std::to_string(i), Pattern(1 << 20, 5));
  EXPECT_TRUE(Text(got.object->bytes()) == old);
}

TYPED_TEST(Objects, TtlRunsByTheDaemonsClock) {
  PutItem item = {.key = "short", .value = {Bytes("v")}};
  item.info.ttl_ms = 10'000;
  ASSERT_TRUE(this->PutStatus(item).ok());
  this->Put("eternal", "v");
  this->daemon().clock().AdvanceMs(9'000);
  const auto got = this->client_->Get("short");
  ASSERT_TRUE(got.hit());
  EXPECT_GE(got.object->info().ttl_ms, 900u);
  EXPECT_LE(got.object->info().ttl_ms, 1'100u);
  this->daemon().clock().AdvanceMs(1'200);
  EXPECT_EQ(this->Get("short"), "(miss)");
  EXPECT_FALSE(this->Exists("short"));
  EXPECT_EQ(this->Put("short", "again"), PutOutcome::kStored) << "expired is not there";
  this->daemon().clock().AdvanceMs(uint64_t{365} * 24 * 3600 * 1000);
  EXPECT_EQ(this->Get("eternal"), "v");
}

TYPED_TEST(Objects, DeleteSaysWhatWasThere) {
  this->Put("a", "1");
  this->Put("b", "2");
  EXPECT_EQ(this->Delete({"a", "missing", "b"}), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(this->Delete({"a", "b"}), (std::vector<bool>{false, false}));
  EXPECT_EQ(this->Get("a"), "(miss)");
  EXPECT_EQ(this->daemon().Stats().objects, 0u);
}

TYPED_TEST(Objects, KeysAreBytes) {
  const std::string binary("\x00\xff\n\x80k", 5);
  ASSERT_EQ(this->Put(binary, "binary"), PutOutcome::kStored);
  EXPECT_EQ(this->Get(binary), "binary");
  EXPECT_EQ(this->Get(std::string("\x00\xff\n\x80", 4)), "(miss)");
}

TYPED_TEST(Objects, PingAnswers) { EXPECT_TRUE(this->client_->Ping().ok()); }

}  // namespace
}  // namespace infercache
