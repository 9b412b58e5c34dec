// Several clients: what they share, what keeps them apart, and what they do to each other.

#include <atomic>
#include <thread>

#include "tests/conformance/conformance.h"

namespace infercache {
namespace {

template <typename Transport>
using Sharing = Conformance<Transport>;
TYPED_TEST_SUITE(Sharing, AllTransports, TransportName);
template <typename Transport>
using ClientSharing = Conformance<Transport>;
TYPED_TEST_SUITE(ClientSharing, Transports, TransportName);

TYPED_TEST(Sharing, ClientsOfOneFingerprintShare) {
  auto first = this->Connect([](ClientOptions& o) {
    o.fingerprint = {{"model", "m"}, {"dtype", "bf16"}};
  });
  auto second = this->Connect([](ClientOptions& o) {
    o.fingerprint = {{"dtype", "bf16"}, {"model", "m"}};  // order does not matter
  });
  first->Put({.key = "k", .value = {Bytes("v")}});
  EXPECT_EQ(this->GetFrom(*second, "k"), "v");
}

TYPED_TEST(Sharing, FingerprintsKeepObjectsApart) {
  auto llama = this->Connect([](ClientOptions& o) { o.fingerprint = {{"model", "llama"}}; });
  auto qwen = this->Connect([](ClientOptions& o) { o.fingerprint = {{"model", "qwen"}}; });
  llama->Put({.key = "k", .value = {Bytes("llama's")}});
  EXPECT_EQ(this->GetFrom(*qwen, "k"), "(miss)");
  EXPECT_EQ(this->Get("k"), "(miss)");
  qwen->Put({.key = "k", .value = {Bytes("qwen's")}});
  EXPECT_EQ(this->GetFrom(*llama, "k"), "llama's");
  EXPECT_EQ(this->GetFrom(*qwen, "k"), "qwen's");
  const std::string_view key = "k";
  EXPECT_TRUE(llama->Delete(std::span(&key, 1)).flags.at(0));
  EXPECT_EQ(this->GetFrom(*qwen, "k"), "qwen's");
}

TYPED_TEST(ClientSharing, ListsShowTheObjectsOfOneFingerprint) {
  auto llama = this->Connect([](ClientOptions& o) { o.fingerprint = {{"model", "llama"}}; });
  auto qwen = this->Connect([](ClientOptions& o) { o.fingerprint = {{"model", "qwen"}}; });
  llama->Put({.key = "k", .value = {Bytes("llama's")}});
  qwen->Put({.key = "k", .value = {Bytes("qwen's")}});
  EXPECT_EQ(qwen->List("").objects.size(), 1u);
}

TYPED_TEST(Sharing, NamespacesKeepObjectsApart) {
  auto other = this->Connect([](ClientOptions& o) { o.namespace_name = kOtherNamespace; });
  this->Put("k", "v");
  EXPECT_EQ(this->GetFrom(*other, "k"), "(miss)");
}

// Readers and writers of few keys at once: a reader sees one of the values that were put, whole.
TYPED_TEST(Sharing, ConcurrentClientsSeeWholeObjects) {
  constexpr int kClients = 4;
  constexpr int kRounds = 60;
  constexpr size_t kKeys = 4;
  const std::vector<std::string> values = {Pattern(100, 1), Pattern(70'000, 2),
                                           Pattern(1'200'000, 3)};
  std::atomic<int> hits{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kClients; ++t) {
    threads.emplace_back([&, t] {
      auto client = this->Connect();
      for (int i = 0; i < kRounds; ++i) {
        const std::string key = "shared" + std::to_string((t + i) % kKeys);
        const std::string& value = values[(t * 7 + i) % values.size()];
        if (i % 10 == 9) {
          const std::string_view view = key;
          ASSERT_TRUE(client->Delete(std::span(&view, 1)).status.ok());
        } else if (i % 2 == 0) {
          const PutResult put =
              client->Put({.key = key, .value = {Bytes(value)}, .overwrite = true});
          ASSERT_TRUE(put.status.ok()) << put.status;
        }
        const auto got = client->Get(key);
        ASSERT_TRUE(got.status.ok()) << got.status;
        if (!got.hit()) continue;
        ++hits;
        const std::string text = Text(got.object->bytes());
        ASSERT_TRUE(std::find(values.begin(), values.end(), text) != values.end());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(hits, kClients * kRounds / 4);
}

TYPED_TEST(Sharing, ADestroyedClientLeavesItsObjects) {
  {
    auto writer = this->Connect();
    writer->Put({.key = "k", .value = {Bytes("stays")}});
  }
  EXPECT_EQ(this->Get("k"), "stays");
}

}  // namespace
}  // namespace infercache
