// Batches: none, one, a thousand; results in the order of the keys.

#include <thread>

#include "absl/strings/str_format.h"
#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

template <typename Transport>
class Batches : public Conformance<Transport> {
 protected:
  // Stores "k/0000".."k/<count - 1>", each with its key as its value.
  void PutMany(size_t count) {
    std::vector<PutItem> items;
    for (size_t i = 0; i < count; ++i) {
      keys_.push_back(absl::StrFormat("k/%04d", i));
    }
    for (const std::string& key : keys_) {
      items.push_back({.key = key, .value = {Bytes(key)}});
    }
    for (const PutResult& result : this->client_->Put(items)) {
      ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
    }
  }

  // Every key, and after each one that is missing.
  std::vector<std::string_view> KeysWithHoles() {
    std::vector<std::string_view> keys;
    for (const std::string& key : keys_) {
      keys.push_back(key);
      keys.push_back("missing");
    }
    return keys;
  }

  std::vector<std::string> keys_;
};
TYPED_TEST_SUITE(Batches, AllTransports, TransportName);
template <typename Transport>
using ClientBatches = Batches<Transport>;
TYPED_TEST_SUITE(ClientBatches, Transports, TransportName);

TYPED_TEST(Batches, EmptyOnesHaveEmptyResults) {
  auto& client = *this->client_;
  EXPECT_TRUE(client.Get(std::span<const std::string_view>()).empty());
  EXPECT_TRUE(client.Put(std::span<const PutItem>()).empty());
  for (const KeysResult& result : {client.Exists({}), client.Touch({}), client.Delete({})}) {
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_TRUE(result.flags.empty());
  }
  const MatchResult match = client.Match({});
  EXPECT_TRUE(match.status.ok());
  EXPECT_EQ(match.prefix_length, 0u);
}

// gRPC's server takes 262,144 parts a call: the batch, of which each object is legal, was refused.
TYPED_TEST(ClientBatches, MayHaveMorePartsThanOneCall) {
  constexpr size_t kObjects = 65, kPartsOfEach = 4096;
  const std::string value(kPartsOfEach, 'v');
  const std::vector<PartSpec> parts(kPartsOfEach, PartSpec{.size_bytes = 1});
  std::vector<std::string> keys;
  for (size_t i = 0; i < kObjects; ++i) keys.push_back(absl::StrFormat("parts/%02d", i));
  std::vector<PutItem> items;
  for (const std::string& key : keys) {
    items.push_back({.key = key, .parts = parts, .value = {Bytes(value)}});
  }
  for (const PutResult& result : this->client_->Put(items)) {
    ASSERT_EQ(result.outcome, PutOutcome::kStored) << result.status;
  }
}

TYPED_TEST(Batches, AThousandKeepTheirOrder) {
  this->PutMany(1000);
  const std::vector<std::string_view> keys = this->KeysWithHoles();
  const auto results = this->client_->Get(keys);
  ASSERT_EQ(results.size(), 2000u);
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_TRUE(results[i].status.ok()) << results[i].status;
    ASSERT_EQ(results[i].hit(), i % 2 == 0) << i;
    if (results[i].hit()) {
      ASSERT_EQ(Text(results[i].object->bytes()), keys[i]);
    }
  }
  const std::vector<bool> present = this->Exists(keys);
  const KeysResult touched = this->client_->Touch(keys);
  ASSERT_TRUE(touched.status.ok()) << touched.status;
  EXPECT_EQ(touched.flags, present);
  for (size_t i = 0; i < keys.size(); ++i) ASSERT_EQ(present[i], i % 2 == 0) << i;
  EXPECT_EQ(this->Delete(keys), present);
  EXPECT_EQ(this->Exists(keys), std::vector<bool>(2000, false));
}

TYPED_TEST(ClientBatches, GetIntoFillsEachBuffer) {
  this->PutMany(1000);
  std::vector<std::string_view> keys(this->keys_.begin(), this->keys_.end());
  std::vector<std::string> buffers(1000, std::string(8, '.'));
  std::vector<std::span<std::byte>> destinations;
  for (std::string& buffer : buffers) {
    destinations.push_back(std::as_writable_bytes(std::span(buffer)));
  }
  const RequestId id = this->client_->SubmitGetInto(keys, destinations);
  std::vector<Completion> completions;
  while (completions.empty()) completions = this->client_->Drain();
  ASSERT_EQ(completions[0].id, id);
  for (size_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(completions[0].get_into[i].hit) << completions[0].get_into[i].status;
    ASSERT_EQ(completions[0].get_into[i].size_bytes, 6u);
    ASSERT_EQ(buffers[i], this->keys_[i] + "..");
  }
}

TYPED_TEST(Batches, APutAnswersEachItemByItself) {
  this->Put("there", "old");
  const std::string long_key(1025, 'k');
  const std::vector<PutItem> items = {{.key = "new", .value = {Bytes("1")}},
                                      {.key = "there", .value = {Bytes("2")}},
                                      {.key = "there", .value = {Bytes("3")}, .overwrite = true},
                                      {.key = "new", .value = {Bytes("4")}}};
  const std::vector<PutResult> results = this->client_->Put(items);
  EXPECT_EQ(results[0].outcome, PutOutcome::kStored);
  EXPECT_EQ(results[1].outcome, PutOutcome::kExists);
  EXPECT_EQ(results[2].outcome, PutOutcome::kStored);
  EXPECT_EQ(results[3].outcome, PutOutcome::kExists) << "the first of the batch won";
  EXPECT_EQ(this->Get("new"), "1");
  EXPECT_EQ(this->Get("there"), "3");
}

TYPED_TEST(Batches, MatchFindsThePrefixAndTheHoles) {
  this->PutMany(100);
  std::vector<std::string_view> keys(this->keys_.begin(), this->keys_.end());
  EXPECT_EQ(this->client_->Match(keys).prefix_length, 100u);
  this->Delete({keys[40], keys[99]});
  const MatchResult match = this->client_->Match(keys);
  ASSERT_TRUE(match.status.ok()) << match.status;
  EXPECT_EQ(match.prefix_length, 40u);
  ASSERT_EQ(match.present.size(), 100u);
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(match.present[i], i != 40 && i != 99) << i;
    EXPECT_EQ(match.size_bytes[i], match.present[i] ? 6u : 0u) << i;
  }
  this->Delete({keys[0]});
  EXPECT_EQ(this->client_->Match(keys).prefix_length, 0u);
}

TYPED_TEST(ClientBatches, ListIsSortedAndPaged) {
  this->PutMany(250);
  this->Put("another", "x");
  this->Put("k", "x");
  std::vector<std::string> expected = this->keys_;
  EXPECT_EQ(this->ListAll("k/"), expected);
  EXPECT_EQ(this->ListAll("k/", 100), expected);
  EXPECT_EQ(this->ListAll("k/", 1).size(), 250u);
  EXPECT_EQ(this->ListAll("k/00", 7),
            std::vector<std::string>(expected.begin(), expected.begin() + 100));
  expected.insert(expected.begin(), "k");
  expected.insert(expected.begin(), "another");
  EXPECT_EQ(this->ListAll(""), expected);
  EXPECT_TRUE(this->ListAll("nothing").empty());

  const std::string binary("\x00\xff\n\x80k", 5);
  this->Put(binary, "binary");
  EXPECT_EQ(this->ListAll(std::string("\x00", 1)), std::vector<std::string>{binary});

  const ListResult page = this->client_->List("k/", 2);
  ASSERT_EQ(page.objects.size(), 2u);
  EXPECT_FALSE(page.next_page_token.empty());
  EXPECT_EQ(page.objects[1].key, "k/0001");
  EXPECT_EQ(page.objects[1].size_bytes, 6u);
  ASSERT_EQ(page.objects[1].parts.size(), 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(this->client_->List("k/", 2, "no such token").status));
}

// A touched object is evicted after one that was not; a probed one is not.
TYPED_TEST(Batches, TouchKeepsAndExistsDoesNot) {
  const std::string block = Pattern(1 << 20, 6);
  this->Put("touched", block);
  this->Put("probed", block);
  int stored = 0;
  const auto put_another = [&] { this->Put("filler" + std::to_string(stored++), block); };
  // More than goes at once.
  while (stored < 12) put_another();
  this->daemon().clock().AdvanceMs(1'000);
  const std::string_view touched = "touched";
  ASSERT_TRUE(this->client_->Touch(std::span(&touched, 1)).flags.at(0));
  // The daemon hears of it a little later.
  while (this->daemon().Stats().uses.hits < 1) std::this_thread::yield();
  // Until the oldest one went.
  while (this->Exists("probed") && stored < 1000) put_another();
  EXPECT_LT(stored, 1000);
  EXPECT_TRUE(this->Exists("touched"));
}

}  // namespace
}  // namespace infercache
