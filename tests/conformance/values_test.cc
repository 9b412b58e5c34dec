// Values of every size, whichever way they travel.

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

template <typename Transport>
class Values : public Conformance<Transport> {
 protected:
  // Through puts and gets of both kinds.
  void RoundTrip(typename Conformance<Transport>::AnyClient& client, size_t size) {
    const std::string value = Pattern(size, static_cast<uint32_t>(size));
    const std::string key = "size/" + std::to_string(size);
    const PutResult put = client.Put({.key = key, .value = {Bytes(value)}});
    ASSERT_EQ(put.outcome, PutOutcome::kStored) << size << ": " << put.status;
    const auto got = client.Get(key);
    ASSERT_TRUE(got.hit()) << size << ": " << got.status;
    ASSERT_TRUE(Text(got.object->bytes()) == value) << size;

    std::string buffer(size + 1, '!');
    const auto all = std::as_writable_bytes(std::span(buffer));
    const GetIntoResult into = client.GetInto(key, all);
    ASSERT_TRUE(into.hit) << size << ": " << into.status;
    ASSERT_EQ(into.size_bytes, size);
    ASSERT_TRUE(buffer == value + "!") << size;

    std::string small(size - 1, '!');
    const GetIntoResult refused = client.GetInto(key, std::as_writable_bytes(std::span(small)));
    ASSERT_TRUE(absl::IsOutOfRange(refused.status)) << size << ": " << refused.status;
    ASSERT_FALSE(refused.hit);
    ASSERT_EQ(refused.size_bytes, size);
    ASSERT_TRUE(small == std::string(size - 1, '!')) << "nothing is written";
  }
};
TYPED_TEST_SUITE(Values, AllRoomyTransports, TransportName);

TYPED_TEST(Values, OfEverySizeUpTo40MiB) {
  // Around the sizes at which something changes: copied or referred to by the daemon, unary or in
  // chunks.
  constexpr size_t kSizes[] = {1,        2,    63,       4096,         65535,     65536,    65537,
                               kMiB - 1, kMiB, kMiB + 1, 5 * kMiB + 7, 33 * kMiB, 40 * kMiB};
  for (const size_t size : kSizes) {
    this->RoundTrip(*this->client_, size);
  }
  EXPECT_EQ(this->daemon().Stats().reservations, 0u);
}

TYPED_TEST(Values, InChunks) {
  auto client = this->Connect([](ClientOptions& o) { o.max_unary_bytes = 1000; });
  for (const size_t size : {size_t{1001}, kMiB - 1, kMiB, kMiB + 1, 3 * kMiB + 1}) {
    this->RoundTrip(*client, size);
  }
}

TYPED_TEST(Values, AStreamedPutKeepsTheRules) {
  auto client = this->Connect([](ClientOptions& o) { o.max_unary_bytes = 10; });
  PutItem item = {.key = "k", .value = {Bytes("0123456789a")}};
  item.parts = {{.dtype = DataType::kUInt8, .shape = {11}, .size_bytes = 11}};
  item.info.kind = ObjectKind::kEmbedding;
  EXPECT_EQ(client->Put(item).outcome, PutOutcome::kStored);
  EXPECT_EQ(client->Put(item).outcome, PutOutcome::kExists);
  const auto got = client->Get("k");
  ASSERT_TRUE(got.hit()) << got.status;
  EXPECT_EQ(got.object->parts(), item.parts);
  EXPECT_EQ(got.object->info().kind, ObjectKind::kEmbedding);
  item.value = {Bytes("a9876543210")};
  item.overwrite = true;
  EXPECT_EQ(client->Put(item).outcome, PutOutcome::kStored);
  EXPECT_EQ(this->Get("k"), "a9876543210");
  item.info.class_id = 16;
  EXPECT_TRUE(absl::IsInvalidArgument(client->Put(item).status));
  EXPECT_EQ(this->daemon().Stats().reservations, 0u);
}

// More than any one answer carries.
TYPED_TEST(Values, ABatchLargerThanAMessage) {
  std::vector<std::string> keys;
  for (int i = 0; i < 12; ++i) keys.push_back("block/" + std::to_string(i));
  std::vector<std::string> values;
  std::vector<PutItem> items;
  for (size_t i = 0; i < keys.size(); ++i) {
    values.push_back(Pattern(8 * kMiB, static_cast<uint32_t>(i)));
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    items.push_back({.key = keys[i], .value = {Bytes(values[i])}});
  }
  for (const PutResult& result : this->client_->Put(items)) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const auto results = this->client_->Get(views);
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_TRUE(results[i].hit()) << i << ": " << results[i].status;
    ASSERT_TRUE(Text(results[i].object->bytes()) == values[i]) << i;
  }
}

}  // namespace
}  // namespace infercache
