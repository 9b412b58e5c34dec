// Every kind of bad input: the right code, a reason, a message that names what and where, and
// nothing left behind.

#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/limits.h"
#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

using grpc::StatusCode;

class BadInputTest : public RpcTest {
 protected:
  BadInputTest() { default_namespace.required_fingerprint = {{"model", "m"}}; }

  void SetUp() override {
    Start();
    v1::PutRequest put = WithModel(MakePut("there", "v"));
    ASSERT_TRUE(Put(put).ok());
  }

  template <typename Request>
  static Request WithModel(Request request) {
    auto& entry = *request.mutable_scope()->add_fingerprint();
    entry.set_key("model");
    entry.set_value("m");
    return request;
  }

  void ExpectRefused(const grpc::Status& status, StatusCode code, const std::string& reason,
                     const std::string& what) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(ReasonOf(status), reason) << status.error_message();
    EXPECT_THAT(status.error_message(), ::testing::HasSubstr(what));
  }

  // The put fails, and the store is as it was.
  void ExpectPutRefused(const v1::PutRequest& request, StatusCode code, const std::string& reason,
                        const std::string& what) {
    const store::NamespaceStats before = DefaultNamespace()->Stats();
    ExpectRefused(Put(request), code, reason, what);
    EXPECT_TRUE(IsIdle());
    const store::NamespaceStats after = DefaultNamespace()->Stats();
    EXPECT_EQ(after.objects, before.objects) << what;
    EXPECT_EQ(after.used_bytes, before.used_bytes) << what;
    EXPECT_EQ(after.stored, before.stored) << what;
  }

  // A good first item and a bad second one, which `spoil` makes of a good one.
  void ExpectItemRefused(const std::function<void(v1::PutItem&)>& spoil, const std::string& reason,
                         const std::string& what) {
    v1::PutRequest request = WithModel(MakePut("good", "v"));
    v1::PutItem& item = *request.add_items();
    item.set_key("bad");
    item.set_value("1234");
    spoil(item);
    ExpectPutRefused(request, StatusCode::INVALID_ARGUMENT, reason, "items[1]");
    ExpectPutRefused(request, StatusCode::INVALID_ARGUMENT, reason, what);
  }
};

TEST_F(BadInputTest, KeysOfTheWrongLength) {
  ExpectItemRefused([](auto& item) { item.set_key(""); }, "INVALID_KEY", "1 to 1024");
  ExpectItemRefused([](auto& item) { item.set_key(std::string(1025, 'k')); }, "INVALID_KEY",
                    "1025");
  v1::PutRequest longest = WithModel(MakePut(std::string(kMaxKeyBytes, 'k'), "v"));
  EXPECT_TRUE(Put(longest).ok());

  for (const std::string& key : {std::string(), std::string(kMaxKeyBytes + 1, 'k')}) {
    ExpectRefused(Get(WithModel(MakeGet({"good", key}))), StatusCode::INVALID_ARGUMENT,
                  "INVALID_KEY", "keys[1]");
  }
}

TEST_F(BadInputTest, TooManyKeys) {
  v1::GetRequest request = WithModel(v1::GetRequest());
  for (size_t i = 0; i < kMaxKeysPerCall; ++i) request.add_keys("k");
  EXPECT_TRUE(Get(request).ok());
  request.add_keys("k");
  ExpectRefused(Get(request), StatusCode::INVALID_ARGUMENT, "TOO_MANY_KEYS",
                "keys: more than 65536");
}

TEST_F(BadInputTest, ValuesAndPartsThatDisagree) {
  ExpectItemRefused([](auto& item) { item.clear_value(); }, "INVALID_VALUE", "value: empty");
  ExpectItemRefused([](auto& item) { item.add_parts()->set_size_bytes(5); }, "INVALID_PARTS", "");
  ExpectItemRefused(
      [](auto& item) {
        auto& part = *item.add_parts();
        part.set_dtype(v1::DATA_TYPE_FLOAT32);
        part.add_shape(2);
        part.set_size_bytes(4);
      },
      "INVALID_PARTS", "part 0");
  ExpectItemRefused(
      [](auto& item) {
        auto& part = *item.add_parts();
        part.set_dtype(v1::DATA_TYPE_UINT8);
        for (const uint64_t dimension : {uint64_t{1} << 63, uint64_t{2}}) part.add_shape(dimension);
        part.set_size_bytes(4);
      },
      "INVALID_PARTS", "overflow");
  ExpectItemRefused(
      [](auto& item) {
        auto& part = *item.add_parts();
        part.set_dtype(v1::DATA_TYPE_UINT8);
        for (size_t i = 0; i <= kMaxRank; ++i) part.add_shape(1);
        part.set_size_bytes(1);
      },
      "INVALID_PARTS", "rank 9");
  ExpectItemRefused([](auto& item) { item.add_parts()->set_dtype(static_cast<v1::DataType>(99)); },
                    "INVALID_PARTS", "dtype");
  ExpectItemRefused(
      [](auto& item) {
        for (size_t i = 0; i <= kMaxParts; ++i) item.add_parts();
      },
      "INVALID_PARTS", "4097");
}

TEST_F(BadInputTest, InfoOutOfRange) {
  ExpectItemRefused([](auto& item) { item.mutable_info()->set_ttl_ms(kMaxTtlMs + 1); },
                    "INVALID_OBJECT_INFO", "ttl_ms");
  ExpectItemRefused([](auto& item) { item.mutable_info()->set_class_id(16); },
                    "INVALID_OBJECT_INFO", "class_id: 16");
  ExpectItemRefused(
      [](auto& item) { item.mutable_info()->set_kind(static_cast<v1::ObjectKind>(-1)); },
      "INVALID_OBJECT_INFO", "kind");
  for (const float cost : {-1.0f, 2e9f, std::numeric_limits<float>::quiet_NaN(),
                           std::numeric_limits<float>::infinity()}) {
    ExpectItemRefused([cost](auto& item) { item.mutable_info()->set_compute_cost_ms(cost); },
                      "INVALID_OBJECT_INFO", "compute_cost_ms");
  }
  ExpectItemRefused([](auto& item) { item.mutable_info()->set_parent_key(std::string(1025, 'p')); },
                    "INVALID_OBJECT_INFO", "parent_key");
}

TEST_F(BadInputTest, UnknownNamespace) {
  v1::PutRequest request = WithModel(MakePut("k", "v"));
  request.mutable_scope()->set_namespace_("nowhere");
  ExpectPutRefused(request, StatusCode::NOT_FOUND, "NAMESPACE_NOT_FOUND", "nowhere");
}

TEST_F(BadInputTest, FingerprintsThatTheNamespaceRefuses) {
  ExpectPutRefused(MakePut("k", "v"), StatusCode::FAILED_PRECONDITION, "FINGERPRINT_MISMATCH",
                   "model");
  v1::PutRequest other = WithModel(MakePut("k", "v"));
  other.mutable_scope()->mutable_fingerprint(0)->set_value("n");
  ExpectPutRefused(other, StatusCode::FAILED_PRECONDITION, "FINGERPRINT_MISMATCH", "model");
  v1::PutRequest twice = WithModel(WithModel(MakePut("k", "v")));
  ExpectPutRefused(twice, StatusCode::INVALID_ARGUMENT, "INVALID_FINGERPRINT", "model");
}

TEST_F(BadInputTest, AnObjectLargerThanTheNamespaceIsRefusedAlone) {
  v1::PutRequest request = WithModel(MakePut("huge", Pattern(9 * kMiB, 1)));
  *request.add_items() = MakePut("small", "v").items(0);
  v1::PutResponse response;
  const grpc::Status status = Put(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.results(0).outcome(), v1::PUT_OUTCOME_REFUSED);
  EXPECT_EQ(response.results(0).code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(response.results(0).message().empty());
  EXPECT_EQ(response.results(1).outcome(), v1::PUT_OUTCOME_STORED);
}

TEST_F(BadInputTest, BadPages) {
  const auto list = [this](const std::function<void(v1::ListRequest&)>& spoil) {
    v1::ListRequest request = WithModel(v1::ListRequest());
    spoil(request);
    grpc::ClientContext context;
    v1::ListResponse response;
    return cache->List(&context, request, &response);
  };
  ExpectRefused(list([](auto& r) { r.set_page_size(kMaxListPageSize + 1); }),
                StatusCode::INVALID_ARGUMENT, "INVALID_PAGE", "page_size");
  ExpectRefused(list([](auto& r) {
                  r.set_key_prefix("a");
                  r.set_page_token("b");
                }),
                StatusCode::INVALID_ARGUMENT, "INVALID_PAGE", "page_token");
  ExpectRefused(list([](auto& r) { r.set_key_prefix(std::string(1025, 'k')); }),
                StatusCode::INVALID_ARGUMENT, "INVALID_PAGE", "key_prefix");
}

// Bytes that are no message, through the methods that parse by themselves.
TEST_F(BadInputTest, BytesThatAreNoMessage) {
  grpc::GenericStub stub(channel);
  for (const char* method :
       {"/infercache.v1.Cache/Get", "/infercache.v1.Cache/Put", "/infercache.v1.Admin/Flush"}) {
    const grpc::Slice slice(std::string("\x0a\xff\xff"));
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    ExpectRefused(status, StatusCode::INVALID_ARGUMENT, "MALFORMED_MESSAGE", "Request");
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
  }
}

// They were parsed, whatever their number, before anything was looked at.
TEST_F(BadInputTest, StreamsCountTheirElementsBeforeTheyAreParsed) {
  v1::PutStreamRequest put = StreamHeader("k", 1);
  for (size_t i = 0; i <= kMaxPartsPerCall; ++i) put.mutable_header()->add_parts();
  ExpectRefused(PutStream({put}), StatusCode::INVALID_ARGUMENT, "INVALID_PARTS",
                "parts: more than 262144");

  v1::FlightRequest ask;
  for (size_t i = 0; i <= kMaxKeysPerCall; ++i) ask.mutable_ask()->add_keys();
  grpc::ClientContext context;
  const auto stream = cache->Flight(&context);
  stream->Write(ask);
  ExpectRefused(stream->Finish(), StatusCode::INVALID_ARGUMENT, "TOO_MANY_KEYS",
                "keys: more than 65536");
}

// Who may not call learns nothing about its bytes, and they cost nothing.
// Requests of Admin were parsed by gRPC, before anybody asked who calls.
TEST_F(BadInputTest, CredentialsComeBeforeTheBytes) {
  grpc::GenericStub stub(channel);
  for (const char* method :
       {"Cache/Get", "Cache/Put", "Cache/Match", "Cache/Exists", "Cache/Delete", "Cache/Touch",
        "Cache/List", "Admin/GetInfo", "Admin/GetStats", "Admin/CreateNamespace",
        "Admin/ListNamespaces", "Admin/DeleteNamespace", "Admin/SetPolicy", "Admin/AdvanceClock",
        "Admin/Flush", "Admin/SetLogLevel", "Admin/Drain"}) {
    const grpc::Slice slice(std::string("\x0a\xff\xff"));
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer nobody's");
    grpc::CompletionQueue queue;
    auto call =
        stub.PrepareUnaryCall(&context, std::string("/infercache.v1.") + method, request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag;
    bool ok;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    ExpectRefused(status, StatusCode::UNAUTHENTICATED, "CREDENTIAL_UNKNOWN", "token");
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
  }
}

TEST(LimitsTest, AMessageAboveTheLimitIsRefused) {
  class Fixture : public RpcTest {
   public:
    Fixture() { options.max_message_bytes = kMiB; }
    void TestBody() override {
      Start();
      const grpc::Status status = Put(MakePut("k", Pattern(2 * kMiB, 1)));
      EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
      EXPECT_TRUE(IsIdle());
      EXPECT_EQ(DefaultNamespace()->Stats().objects, 0u);
    }
  };
  Fixture().TestBody();
}

TEST(LimitsTest, ACallAboveTheLimitIsRefused) {
  class Fixture : public RpcTest {
   public:
    Fixture() { options.max_concurrent_calls = 1; }
    void TestBody() override {
      Start();
      grpc::ClientContext context;
      v1::PutStreamResponse response;
      const auto first = cache->PutStream(&context, &response);
      ASSERT_TRUE(first->Write(StreamHeader("k", 10)));
      ASSERT_TRUE(Eventually([this] { return server->stats().calls_in_flight == 1; }));
      const grpc::Status second = Get(MakeGet({"k"}));
      EXPECT_EQ(second.error_code(), StatusCode::RESOURCE_EXHAUSTED);
      EXPECT_EQ(ReasonOf(second), "CALLS_LIMIT");
      context.TryCancel();
      first->Finish();
    }
  };
  Fixture().TestBody();
}

}  // namespace
}  // namespace infercache::rpc
