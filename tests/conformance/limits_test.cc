// Every limit: the value itself is legal, one more is an error that names it, and nothing is kept.

#include "common/limits.h"

#include <cmath>

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

using ::testing::HasSubstr;

template <typename Transport>
class Limits : public Conformance<Transport> {
 protected:
  void ExpectStored(const PutItem& item) {
    const absl::Status status = this->PutStatus(item);
    EXPECT_TRUE(status.ok()) << status;
  }
  void ExpectInvalid(const PutItem& item) {
    const store::NamespaceStats before = this->daemon().Stats();
    const absl::Status status = this->PutStatus(item);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    const store::NamespaceStats after = this->daemon().Stats();
    EXPECT_EQ(after.used_bytes, before.used_bytes);
    EXPECT_EQ(after.objects, before.objects);
    EXPECT_EQ(after.reservations, 0u);
  }

  PutItem item_ = {.key = "k", .value = {Bytes("12345678")}, .overwrite = true};
};
TYPED_TEST_SUITE(Limits, AllTransports, TransportName);
template <typename Transport>
using ClientLimits = Limits<Transport>;
TYPED_TEST_SUITE(ClientLimits, Transports, TransportName);

TYPED_TEST(Limits, KeyLength) {
  const std::string longest(kMaxKeyBytes, 'k');
  const std::string too_long(kMaxKeyBytes + 1, 'k');
  this->item_.key = longest;
  this->ExpectStored(this->item_);
  EXPECT_EQ(this->Get(longest), "12345678");
  this->item_.key = too_long;
  this->ExpectInvalid(this->item_);
  this->item_.key = "";
  this->ExpectInvalid(this->item_);
  for (const std::string_view key : {std::string_view(too_long), std::string_view()}) {
    const auto keys = std::span(&key, 1);
    EXPECT_TRUE(absl::IsInvalidArgument(this->client_->Get(key).status));
    EXPECT_TRUE(absl::IsInvalidArgument(this->client_->Match(keys).status));
    EXPECT_TRUE(absl::IsInvalidArgument(this->client_->Exists(keys).status));
    EXPECT_TRUE(absl::IsInvalidArgument(this->client_->Touch(keys).status));
    EXPECT_TRUE(absl::IsInvalidArgument(this->client_->Delete(keys).status));
  }
}

TYPED_TEST(Limits, EmptyValue) {
  this->item_.value = {};
  this->ExpectInvalid(this->item_);
}

TYPED_TEST(Limits, ClassId) {
  this->item_.info.class_id = kMaxClassId;
  this->ExpectStored(this->item_);
  this->item_.info.class_id = kMaxClassId + 1;
  this->ExpectInvalid(this->item_);
}

TYPED_TEST(Limits, Ttl) {
  this->item_.info.ttl_ms = kMaxTtlMs;
  this->ExpectStored(this->item_);
  this->item_.info.ttl_ms = kMaxTtlMs + 1;
  this->ExpectInvalid(this->item_);
}

TYPED_TEST(Limits, ComputeCost) {
  this->item_.info.compute_cost_ms = kMaxComputeCostMs;
  this->ExpectStored(this->item_);
  for (const float cost : {-1.0f, std::nextafter(kMaxComputeCostMs, INFINITY), INFINITY, NAN}) {
    this->item_.info.compute_cost_ms = cost;
    this->ExpectInvalid(this->item_);
  }
}

TYPED_TEST(Limits, PartsMustAddUp) {
  const PartSpec four_bytes = {.dtype = DataType::kBytes, .shape = {}, .size_bytes = 4};
  this->item_.parts = {four_bytes, four_bytes};
  this->ExpectStored(this->item_);
  this->item_.parts = {four_bytes};
  this->ExpectInvalid(this->item_);
  this->item_.parts = {four_bytes, four_bytes, four_bytes};
  this->ExpectInvalid(this->item_);
  this->item_.parts = {{.dtype = DataType::kInt32, .shape = {3}, .size_bytes = 8}};
  this->ExpectInvalid(this->item_);
  this->item_.parts = {{.dtype = DataType::kInt32, .shape = {2}, .size_bytes = 8}};
  this->ExpectStored(this->item_);
  this->item_.parts = {
      {.dtype = DataType::kInt32, .shape = {uint64_t{1} << 63, 4}, .size_bytes = 8}};
  this->ExpectInvalid(this->item_);
}

TYPED_TEST(Limits, Rank) {
  this->item_.parts = {
      {.dtype = DataType::kInt64, .shape = std::vector<uint64_t>(kMaxRank, 1), .size_bytes = 8}};
  this->ExpectStored(this->item_);
  this->item_.parts[0].shape.push_back(1);
  this->ExpectInvalid(this->item_);
}

TYPED_TEST(Limits, NumberOfParts) {
  const std::string bytes(kMaxParts + 1, 'x');
  this->item_.value = {Bytes(bytes).first(kMaxParts)};
  this->item_.parts.assign(kMaxParts, {.dtype = DataType::kUInt8, .shape = {}, .size_bytes = 1});
  this->ExpectStored(this->item_);
  const auto got = this->client_->Get("k");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(got.object->parts().size(), kMaxParts);
  this->item_.value = {Bytes(bytes)};
  this->item_.parts.push_back(this->item_.parts[0]);
  this->ExpectInvalid(this->item_);
}

TYPED_TEST(ClientLimits, ListPageSize) {
  EXPECT_TRUE(this->client_->List("", kMaxListPageSize).status.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(this->client_->List("", kMaxListPageSize + 1).status));
}

// The daemon takes 65,536 keys a call; the client cuts what is longer.
TYPED_TEST(Limits, KeysOfABatch) {
  this->Put("k", "v");
  const std::vector<std::string_view> keys(kMaxKeysPerCall + 1, "k");
  const MatchResult match = this->client_->Match(keys);
  ASSERT_TRUE(match.status.ok()) << match.status;
  EXPECT_EQ(match.prefix_length, kMaxKeysPerCall + 1);
}

TYPED_TEST(Limits, AnObjectLargerThanTheNamespaceIsRefused) {
  const std::string value(9 << 20, 'v');
  auto other = this->Connect([](ClientOptions& o) { o.namespace_name = kOtherNamespace; });
  for (const uint64_t max_unary_bytes : {uint64_t{32} << 20, uint64_t{1} << 20}) {
    auto client = this->Connect([&](ClientOptions& o) {
      o.namespace_name = kOtherNamespace;
      o.max_unary_bytes = max_unary_bytes;
    });
    const PutResult result = client->Put({.key = "k", .value = {Bytes(value)}});
    EXPECT_EQ(result.outcome, PutOutcome::kRefused);
    EXPECT_TRUE(absl::IsResourceExhausted(result.status)) << result.status;
  }
}

TYPED_TEST(Limits, AnUnknownNamespaceIsAnError) {
  auto client = this->Connect([](ClientOptions& o) { o.namespace_name = "no-such"; });
  const absl::Status status = client->Get("k").status;
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no-such"));
}

}  // namespace
}  // namespace infercache
