#include "tests/rpc/rpc_fixture.h"

#include <functional>
#include <thread>

#include "server/rpc/error_details.pb.h"

namespace infercache::rpc {
namespace {

constexpr int kCallTimeoutSeconds = 20;

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(kCallTimeoutSeconds));
}

}  // namespace

std::string Pattern(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& c : bytes) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return bytes;
}

bool Eventually(const std::function<bool()>& condition, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

store::NamespaceSpec OpenNamespace(const std::string& name, uint64_t quota_bytes) {
  store::NamespaceSpec spec;
  spec.name = name;
  spec.quota_bytes = quota_bytes;
  spec.grpc_open = true;
  return spec;
}

RpcTest::~RpcTest() {
  if (server != nullptr) {
    EXPECT_TRUE(IsIdle());
  }
  cache.reset();
  admin.reset();
  channel.reset();
  server.reset();
}

void RpcTest::Start() {
  store = std::make_unique<store::Store>(
      store::StoreOptions{.capacity_bytes = capacity_bytes, .chunk_bytes = capacity_bytes}, clock);
  ASSERT_TRUE(store->CreateNamespace(default_namespace).ok());
  auto started = RpcServer::Start(options, *store, hooks, observer);
  ASSERT_TRUE(started.ok()) << started.status();
  server = *std::move(started);
  channel = Connect(server->addresses()[0]);
  cache = v1::Cache::NewStub(channel);
  admin = v1::Admin::NewStub(channel);
}

std::shared_ptr<grpc::Channel> RpcTest::Connect(const std::string& address) const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A channel of its own: gRPC shares connections between equal ones.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Windows that stay small: a reader that pauses makes the server pause.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

grpc::Status RpcTest::Put(const v1::PutRequest& request, v1::PutResponse* response) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::PutResponse ignored;
  return cache->Put(&context, request, response == nullptr ? &ignored : response);
}

grpc::Status RpcTest::Get(const v1::GetRequest& request, v1::GetResponse* response) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::GetResponse ignored;
  return cache->Get(&context, request, response == nullptr ? &ignored : response);
}

void RpcTest::Store(const std::string& key, const std::string& value) {
  v1::PutResponse response;
  const grpc::Status status = Put(MakePut(key, value), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.results(0).outcome(), v1::PUT_OUTCOME_STORED) << response.results(0).message();
}

std::optional<std::string> RpcTest::Load(const std::string& key) {
  v1::GetResponse response;
  const grpc::Status status = Get(MakeGet({key}), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  if (!status.ok() || !response.results(0).found()) return std::nullopt;
  return response.results(0).value();
}

grpc::Status RpcTest::PutStream(const std::vector<v1::PutStreamRequest>& messages,
                                v1::PutStreamResponse* response) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::PutStreamResponse ignored;
  const auto writer = cache->PutStream(&context, response == nullptr ? &ignored : response);
  for (const v1::PutStreamRequest& message : messages) {
    if (!writer->Write(message)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

grpc::Status RpcTest::GetStream(const v1::GetStreamRequest& request, std::string* value,
                                v1::GetStreamHeader* header) {
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = cache->GetStream(&context, request);
  v1::GetStreamResponse message;
  while (reader->Read(&message)) {
    if (message.has_header() && header != nullptr) *header = message.header();
    value->append(message.chunk());
  }
  return reader->Finish();
}

bool RpcTest::IsIdle() {
  return Eventually([this] {
    for (const auto& ns : store->Namespaces()) {
      const store::NamespaceStats stats = ns->Stats();
      if (stats.pins != 0 || stats.reservations != 0 || stats.reserved_bytes != 0) return false;
    }
    const RpcStats stats = server->stats();
    return stats.pinned_response_bytes == 0 && stats.calls_in_flight == 0;
  });
}

v1::PutRequest MakePut(const std::string& key, const std::string& value) {
  v1::PutRequest request;
  auto& item = *request.add_items();
  item.set_key(key);
  item.set_value(value);
  return request;
}

v1::GetRequest MakeGet(const std::vector<std::string>& keys) {
  v1::GetRequest request;
  for (const std::string& key : keys) request.add_keys(key);
  return request;
}

v1::PutStreamRequest StreamHeader(const std::string& key, uint64_t size_bytes) {
  v1::PutStreamRequest request;
  request.mutable_header()->set_key(key);
  request.mutable_header()->set_size_bytes(size_bytes);
  return request;
}

v1::PutStreamRequest StreamChunk(const std::string& bytes) {
  v1::PutStreamRequest request;
  request.set_chunk(bytes);
  return request;
}

std::string ReasonOf(const grpc::Status& status) {
  wire::Status details;
  if (!details.ParseFromString(status.error_details())) return "";
  for (const auto& any : details.details()) {
    wire::ErrorInfo info;
    if (any.type_url() == "type.googleapis.com/google.rpc.ErrorInfo" &&
        info.ParseFromString(any.value()) && info.domain() == "infercache") {
      return info.reason();
    }
  }
  return "";
}

}  // namespace infercache::rpc
