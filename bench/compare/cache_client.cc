#include "bench/compare/cache_client.h"

#include <climits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {

std::shared_ptr<grpc::Channel> Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(INT_MAX);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

void CheckOk(const grpc::Status& status, const char* what) {
  if (status.ok()) return;
  Die(absl::StrCat(what, ": ", status.error_message(), " (gRPC code ",
                   static_cast<int>(status.error_code()), ")"));
}

grpc::ByteBuffer RawClient::Call(const std::string& method, const grpc::ByteBuffer& request) {
  grpc::ClientContext context;
  grpc::ByteBuffer response;
  grpc::Status status;
  const auto call =
      stub_.PrepareUnaryCall(&context, "/infercache.v1.Cache/" + method, request, &queue_);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue_.Next(&tag, &ok);
  CheckOk(status, method.c_str());
  return response;
}

ProtobufClient::ProtobufClient(const std::string& target)
    : channel_(Connect(target)),
      cache_(v1::Cache::NewStub(channel_)),
      admin_(v1::Admin::NewStub(channel_)) {}

v1::GetResponse ProtobufClient::Get(const v1::GetRequest& request) {
  grpc::ClientContext context;
  v1::GetResponse response;
  CheckOk(cache_->Get(&context, request, &response), "Get");
  return response;
}

void ProtobufClient::Put(const v1::PutRequest& request) {
  grpc::ClientContext context;
  v1::PutResponse response;
  CheckOk(cache_->Put(&context, request, &response), "Put");
  for (const v1::PutResult& result : response.results()) {
    if (result.outcome() != v1::PUT_OUTCOME_STORED) Die("Put: not stored: " + result.message());
  }
}

void ProtobufClient::Delete(const v1::DeleteRequest& request) {
  grpc::ClientContext context;
  v1::DeleteResponse response;
  CheckOk(cache_->Delete(&context, request, &response), "Delete");
}

void ProtobufClient::CreateNamespace(const std::string& name, uint64_t quota_bytes) {
  grpc::ClientContext context;
  v1::CreateNamespaceRequest request;
  request.mutable_spec()->set_name(name);
  request.mutable_spec()->set_quota_bytes(quota_bytes);
  request.mutable_spec()->set_grpc_open(true);
  v1::CreateNamespaceResponse response;
  CheckOk(admin_->CreateNamespace(&context, request, &response), "CreateNamespace");
}

v1::NamespaceStats ProtobufClient::Stats(const std::string& name) {
  grpc::ClientContext context;
  v1::GetStatsRequest request;
  request.set_namespace_(name);
  v1::GetStatsResponse response;
  CheckOk(admin_->GetStats(&context, request, &response), "GetStats");
  return response.namespaces(0);
}

v1::LocalLaneStats ProtobufClient::LocalLane() {
  grpc::ClientContext context;
  v1::GetStatsResponse response;
  CheckOk(admin_->GetStats(&context, v1::GetStatsRequest(), &response), "GetStats");
  return response.local();
}

uint32_t ProtobufClient::Pid() {
  grpc::ClientContext context;
  v1::GetInfoResponse response;
  CheckOk(admin_->GetInfo(&context, v1::GetInfoRequest(), &response), "GetInfo");
  return response.pid();
}

v1::GetRequest MakeGet(const std::string& key) {
  v1::GetRequest request;
  request.add_keys(key);
  return request;
}

v1::PutRequest MakePut(const std::string& key, std::string_view value) {
  v1::PutRequest request;
  v1::PutItem& item = *request.add_items();
  item.set_key(key);
  item.set_overwrite(true);
  item.set_value(value.data(), value.size());
  return request;
}

grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

void Parse(grpc::ByteBuffer buffer, google::protobuf::Message* message) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) Die("gRPC cannot hand out an answer's bytes");
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  if (!message->ParseFromString(bytes)) Die("an answer is no " + message->GetTypeName());
}

}  // namespace infercache::bench
