// The two gRPC clients that the servers are measured with. Both have gRPC's default settings except
// that messages may be large, a connection of their own, and one call at a time. A call that fails
// ends the program.

#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>

#include "infercache/v1/admin.grpc.pb.h"
#include "infercache/v1/cache.grpc.pb.h"

namespace infercache::bench {

// `target` as gRPC takes it: "127.0.0.1:7400", "unix:/path".
std::shared_ptr<grpc::Channel> Connect(const std::string& target);

void CheckOk(const grpc::Status& status, const char* what);

// Sends and receives serialized messages: what a client costs that does not decode. Not
// thread-safe.
class RawClient {
 public:
  explicit RawClient(const std::string& target) : stub_(Connect(target)) {}

  // `method`: "Get", "Put", ...
  grpc::ByteBuffer Call(const std::string& method, const grpc::ByteBuffer& request);

 private:
  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
};

// The generated stubs. Thread-safe.
class ProtobufClient {
 public:
  explicit ProtobufClient(const std::string& target);

  v1::GetResponse Get(const v1::GetRequest& request);
  // Every item must be stored.
  void Put(const v1::PutRequest& request);
  void Delete(const v1::DeleteRequest& request);
  void CreateNamespace(const std::string& name, uint64_t quota_bytes);
  v1::NamespaceStats Stats(const std::string& name);
  v1::LocalLaneStats LocalLane();
  uint32_t Pid();  // the daemon's

 private:
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Cache::Stub> cache_;
  const std::unique_ptr<v1::Admin::Stub> admin_;
};

v1::GetRequest MakeGet(const std::string& key);
// Overwrites what is there.
v1::PutRequest MakePut(const std::string& key, std::string_view value);

// Serialized, in one slice.
grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message);
// The program ends if the bytes are no such message.
void Parse(grpc::ByteBuffer buffer, google::protobuf::Message* message);

}  // namespace infercache::bench
