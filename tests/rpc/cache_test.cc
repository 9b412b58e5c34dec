// What infercache.v1.Cache answers when nothing is wrong.

#include <gtest/gtest.h>

#include <set>

#include "common/limits.h"
#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

using CacheTest = RpcTest;

TEST_F(CacheTest, GetReturnsWhatPutStored) {
  Start();
  // Copied into the head, at the border of copying, and out of the arena.
  for (const size_t size :
       {size_t{1}, size_t{100}, size_t{65'535}, size_t{65'536}, size_t{3'000'000}}) {
    const std::string key = "k" + std::to_string(size);
    Store(key, Pattern(size, size));
    EXPECT_EQ(Load(key), Pattern(size, size)) << size;
  }
}

TEST_F(CacheTest, ABatchAnswersInTheOrderOfItsKeys) {
  Start();
  Store("small", "s");
  Store("large", Pattern(kMiB, 1));
  v1::GetResponse response;
  ASSERT_TRUE(Get(MakeGet({"large", "none", "small", "large"}), &response).ok());
  ASSERT_EQ(response.results_size(), 4);
  EXPECT_EQ(response.results(0).value(), Pattern(kMiB, 1));
  EXPECT_FALSE(response.results(1).found());
  EXPECT_FALSE(response.results(1).has_object());
  EXPECT_EQ(response.results(2).value(), "s");
  EXPECT_EQ(response.results(3).value(), Pattern(kMiB, 1));
}

TEST_F(CacheTest, AnEmptyBatchIsFine) {
  Start();
  v1::GetResponse got;
  EXPECT_TRUE(Get(MakeGet({}), &got).ok());
  EXPECT_EQ(got.results_size(), 0);
  v1::PutResponse put;
  EXPECT_TRUE(Put({}, &put).ok());
  EXPECT_EQ(put.results_size(), 0);
}

TEST_F(CacheTest, DescribesPartsAndInfo) {
  Start();
  v1::PutRequest request = MakePut("k", std::string(6 * 4 + 10, 'x'));
  auto& item = *request.mutable_items(0);
  item.mutable_info()->set_kind(v1::OBJECT_KIND_KV);
  item.mutable_info()->set_compute_cost_ms(12.5);
  item.mutable_info()->set_class_id(15);
  item.mutable_info()->set_ttl_ms(3'600'000);
  auto& tensor = *item.add_parts();
  tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
  tensor.add_shape(2);
  tensor.add_shape(3);
  tensor.set_size_bytes(24);
  item.add_parts()->set_size_bytes(10);
  ASSERT_TRUE(Put(request).ok());

  v1::GetResponse response;
  ASSERT_TRUE(Get(MakeGet({"k"}), &response).ok());
  const v1::ObjectDescription& object = response.results(0).object();
  EXPECT_EQ(object.size_bytes(), 34u);
  EXPECT_EQ(object.info().kind(), v1::OBJECT_KIND_KV);
  EXPECT_FLOAT_EQ(object.info().compute_cost_ms(), 12.5);
  EXPECT_EQ(object.info().class_id(), 15u);
  EXPECT_GT(object.info().ttl_ms(), 3'500'000u);
  EXPECT_LE(object.info().ttl_ms(), 3'600'100u);
  ASSERT_EQ(object.parts_size(), 2);
  EXPECT_EQ(object.parts(0).SerializeAsString(), tensor.SerializeAsString());
  EXPECT_EQ(object.parts(1).size_bytes(), 10u);
}

TEST_F(CacheTest, APutOfAKeyThatIsThereLeavesItUnlessItOverwrites) {
  Start();
  Store("k", "first");
  v1::PutResponse response;
  ASSERT_TRUE(Put(MakePut("k", "second"), &response).ok());
  EXPECT_EQ(response.results(0).outcome(), v1::PUT_OUTCOME_EXISTS);
  EXPECT_EQ(Load("k"), "first");

  v1::PutRequest overwrite = MakePut("k", "third");
  overwrite.mutable_items(0)->set_overwrite(true);
  ASSERT_TRUE(Put(overwrite, &response).ok());
  EXPECT_EQ(response.results(0).outcome(), v1::PUT_OUTCOME_STORED);
  EXPECT_EQ(Load("k"), "third");
}

TEST_F(CacheTest, AKeyTwiceInABatchMeansWhatTwoPutsMean) {
  Start();
  v1::PutRequest request;
  for (const char* value : {"first", "second", "third"}) {
    *request.add_items() = MakePut("k", value).items(0);
  }
  request.mutable_items(2)->set_overwrite(true);
  *request.add_items() = MakePut("other", "o").items(0);
  v1::PutResponse response;
  ASSERT_TRUE(Put(request, &response).ok());
  EXPECT_EQ(response.results(0).outcome(), v1::PUT_OUTCOME_STORED);
  EXPECT_EQ(response.results(1).outcome(), v1::PUT_OUTCOME_EXISTS);
  EXPECT_EQ(response.results(2).outcome(), v1::PUT_OUTCOME_STORED);
  EXPECT_EQ(response.results(3).outcome(), v1::PUT_OUTCOME_STORED);
  EXPECT_EQ(Load("k"), "third");
}

TEST_F(CacheTest, TheHeadOfAChainOutlivesItsTail) {
  Start();
  v1::PutRequest chain;
  for (int i = 0; i < 6; ++i) {
    *chain.add_items() = MakePut("block" + std::to_string(i), Pattern(kMiB, i)).items(0);
  }
  ASSERT_TRUE(Put(chain).ok());
  // 8 MiB of quota: these push out the least recently used, which must be the chain's tail.
  for (int i = 0; i < 4; ++i) Store("other" + std::to_string(i), Pattern(kMiB, 100 + i));
  v1::MatchRequest match;
  for (int i = 0; i < 6; ++i) match.add_keys("block" + std::to_string(i));
  v1::MatchResponse found;
  grpc::ClientContext context;
  ASSERT_TRUE(cache->Match(&context, match, &found).ok());
  EXPECT_GT(found.prefix_length(), 0u);
  EXPECT_LT(found.prefix_length(), 6u);
  // What is left is a prefix: no block stands behind a hole.
  const auto present = static_cast<uint8_t>(found.present()[0]);
  EXPECT_EQ(present, (1u << found.prefix_length()) - 1);
}

TEST_F(CacheTest, MatchFindsTheLongestPrefix) {
  Start();
  for (const char* key : {"a", "b", "d"}) Store(key, std::string(10, *key));
  v1::MatchRequest request;
  for (const char* key : {"a", "b", "c", "d"}) request.add_keys(key);
  v1::MatchResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(cache->Match(&context, request, &response).ok());
  EXPECT_EQ(response.prefix_length(), 2u);
  EXPECT_EQ(response.present(), std::string(1, 0b1011));
  EXPECT_THAT(response.size_bytes(), ::testing::ElementsAre(10, 10, 0, 10));
}

TEST_F(CacheTest, ExistsTouchAndDeleteAnswerOneBitAKey) {
  Start();
  std::vector<std::string> keys;
  for (int i = 0; i < 10; ++i) {
    keys.push_back("k" + std::to_string(i));
    if (i % 3 == 0) Store(keys.back(), "v");
  }
  const std::string expected = {'\x49', '\x02'};
  v1::ExistsRequest exists;
  v1::TouchRequest touch;
  v1::DeleteRequest erase;
  for (const std::string& key : keys) {
    exists.add_keys(key);
    touch.add_keys(key);
    erase.add_keys(key);
  }
  grpc::ClientContext c1, c2, c3, c4;
  v1::ExistsResponse existed;
  ASSERT_TRUE(cache->Exists(&c1, exists, &existed).ok());
  EXPECT_EQ(existed.present(), expected);
  v1::TouchResponse touched;
  ASSERT_TRUE(cache->Touch(&c2, touch, &touched).ok());
  EXPECT_EQ(touched.present(), expected);
  v1::DeleteResponse deleted;
  ASSERT_TRUE(cache->Delete(&c3, erase, &deleted).ok());
  EXPECT_EQ(deleted.deleted(), expected);
  ASSERT_TRUE(cache->Exists(&c4, exists, &existed).ok());
  EXPECT_EQ(existed.present(), std::string(2, '\0'));
}

TEST_F(CacheTest, FingerprintsNeverMeet) {
  Start();
  v1::PutRequest put = MakePut("k", "of model a");
  auto& entry = *put.mutable_scope()->add_fingerprint();
  entry.set_key("model");
  entry.set_value("a");
  ASSERT_TRUE(Put(put).ok());
  v1::GetRequest get = MakeGet({"k"});
  v1::GetResponse response;
  ASSERT_TRUE(Get(get, &response).ok());
  EXPECT_FALSE(response.results(0).found());
  *get.mutable_scope() = put.scope();
  ASSERT_TRUE(Get(get, &response).ok());
  EXPECT_EQ(response.results(0).value(), "of model a");
}

TEST_F(CacheTest, ListPagesThroughAPrefixInOrder) {
  Start();
  std::vector<std::string> expected;
  for (int i = 0; i < 25; ++i) {
    expected.push_back("a/" + std::to_string(100 + i));
    Store(expected.back(), "v");
    Store("b/" + std::to_string(i), "v");
  }
  std::vector<std::string> listed;
  v1::ListRequest request;
  request.set_key_prefix("a/");
  request.set_page_size(10);
  int pages = 0;
  do {
    v1::ListResponse response;
    grpc::ClientContext context;
    const grpc::Status status = cache->List(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_LE(response.objects_size(), 10);
    for (const auto& object : response.objects()) listed.push_back(object.key());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(listed, expected);
  EXPECT_EQ(pages, 3);
}

TEST_F(CacheTest, OmitsValuesThatDoNotFitIntoAResponse) {
  options.max_message_bytes = kMiB;
  Start();
  for (int i = 0; i < 3; ++i) Store("k" + std::to_string(i), Pattern(500'000, i));
  v1::GetResponse response;
  const grpc::Status status = Get(MakeGet({"k0", "k1", "k2"}), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.results(0).value(), Pattern(500'000, 0));
  EXPECT_EQ(response.results(1).value(), Pattern(500'000, 1));
  EXPECT_TRUE(response.results(2).found());
  EXPECT_TRUE(response.results(2).value_omitted());
  EXPECT_EQ(response.results(2).object().size_bytes(), 500'000u);
  EXPECT_TRUE(response.results(2).value().empty());
}

// A few stored bytes describe 4,096 parts: asked for often enough, they would fill any memory.
TEST_F(CacheTest, DescriptionsNeverTakeAResponseAboveItsLimit) {
  options.max_message_bytes = kMiB;
  Start();
  v1::PutRequest put = MakePut("k", std::string(kMaxParts, 'x'));
  for (size_t i = 0; i < kMaxParts; ++i) put.mutable_items(0)->add_parts()->set_size_bytes(1);
  ASSERT_TRUE(Put(put).ok());
  constexpr int kTimes = 2000;
  v1::GetResponse response;
  const grpc::Status status = Get(MakeGet(std::vector<std::string>(kTimes, "k")), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_LE(response.ByteSizeLong(), kMiB);
  ASSERT_EQ(response.results_size(), kTimes);
  EXPECT_EQ(response.results(0).object().parts_size(), static_cast<int>(kMaxParts));
  EXPECT_EQ(response.results(0).value(), std::string(kMaxParts, 'x'));
  const v1::GetResult& last = response.results(kTimes - 1);
  EXPECT_TRUE(last.found());
  EXPECT_TRUE(last.value_omitted());
  EXPECT_EQ(last.object().size_bytes(), kMaxParts);
  EXPECT_EQ(last.object().parts_size(), 0);
  EXPECT_LT(DefaultNamespace()->Stats().hits, 100u)
      << "what is omitted is neither pinned nor a hit";
}

TEST_F(CacheTest, KeysWhoseAnswersCannotFitAreRefused) {
  options.max_message_bytes = kMiB;
  Start();
  v1::GetResponse response;
  const grpc::Status status =
      Get(MakeGet(std::vector<std::string>(kMaxKeysPerCall, "k")), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(status), "MESSAGE_TOO_LARGE");
}

TEST_F(CacheTest, ServesUnixSocketsBesideTcp) {
  const std::string path = ::testing::TempDir() + "rpc" + std::to_string(getpid()) + ".sock";
  options.listen = {"127.0.0.1:0", "unix:" + path};
  Start();
  Store("k", "v");
  cache = v1::Cache::NewStub(Connect("unix:" + path));
  EXPECT_EQ(Load("k"), "v");
}

class Recorder final : public CallObserver {
 public:
  void OnCall(const CallRecord& call) override {
    absl::MutexLock lock(&mu_);
    calls_.emplace_back(std::string(call.method), call.code);
    bytes_ += call.request_bytes + call.response_bytes;
  }
  std::vector<std::pair<std::string, absl::StatusCode>> calls() {
    absl::MutexLock lock(&mu_);
    return calls_;
  }
  uint64_t bytes() {
    absl::MutexLock lock(&mu_);
    return bytes_;
  }

 private:
  absl::Mutex mu_;
  std::vector<std::pair<std::string, absl::StatusCode>> calls_ ABSL_GUARDED_BY(mu_);
  uint64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

TEST_F(CacheTest, ReportsEveryCallOnce) {
  Recorder recorder;
  observer = &recorder;
  Start();
  Store("k", Pattern(kMiB, 1));
  Load("k");
  Get(MakeGet({""}));
  ASSERT_TRUE(Eventually([&] { return recorder.calls().size() == 3; }));
  EXPECT_THAT(recorder.calls(),
              ::testing::UnorderedElementsAre(
                  ::testing::Pair("Cache/Put", absl::StatusCode::kOk),
                  ::testing::Pair("Cache/Get", absl::StatusCode::kOk),
                  ::testing::Pair("Cache/Get", absl::StatusCode::kInvalidArgument)));
  EXPECT_GT(recorder.bytes(), 2 * kMiB);
  server->Shutdown(absl::Now());
  observer = nullptr;
}

TEST(MethodNamesTest, AreDistinct) {
  const auto names = MethodNames();
  EXPECT_EQ(std::set<std::string_view>(names.begin(), names.end()).size(), names.size());
  EXPECT_EQ(names.size(), 20u);
}

}  // namespace
}  // namespace infercache::rpc
