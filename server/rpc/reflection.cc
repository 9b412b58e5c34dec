#include "server/rpc/reflection.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/support/server_callback.h>

#include <set>
#include <string>

#include "infercache/v1/admin.pb.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/error.h"
#include "server/rpc/message_bytes.h"
#include "server/rpc/reflection.pb.h"

namespace infercache::rpc {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;

// A request is a name.
constexpr size_t kMaxReflectionRequestBytes = 4 << 10;

const FileDescriptor* Served(int i) {
  static const FileDescriptor* const files[] = {v1::GetRequest::descriptor()->file(),
                                                v1::GetInfoRequest::descriptor()->file()};
  return i < 2 ? files[i] : nullptr;
}

// What the client lacks may be any of the files that this one needs.
void AddWithImports(const FileDescriptor& file, std::set<const FileDescriptor*>& added,
                    wire::FileDescriptorResponse* response) {
  if (!added.insert(&file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  response->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) {
    AddWithImports(*file.dependency(i), added, response);
  }
}

void ListServices(wire::ListServiceResponse* response) {
  for (int i = 0; const FileDescriptor* file = Served(i); ++i) {
    for (int j = 0; j < file->service_count(); ++j) {
      response->add_service()->set_name(file->service(j)->full_name());
    }
  }
}

void SetError(grpc::StatusCode code, const std::string& message,
              wire::ServerReflectionResponse* response) {
  response->mutable_error_response()->set_error_code(code);
  response->mutable_error_response()->set_error_message(message);
}

void SetFile(const FileDescriptor* file, const std::string& name,
             wire::ServerReflectionResponse* response) {
  if (file == nullptr) return SetError(grpc::StatusCode::NOT_FOUND, "not found: " + name, response);
  std::set<const FileDescriptor*> added;
  AddWithImports(*file, added, response->mutable_file_descriptor_response());
}

wire::ServerReflectionResponse Answer(const wire::ServerReflectionRequest& request) {
  using Request = wire::ServerReflectionRequest;
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  wire::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case Request::kListServices:
      ListServices(response.mutable_list_services_response());
      break;
    case Request::kFileByFilename:
      SetFile(pool.FindFileByName(request.file_by_filename()), request.file_by_filename(),
              &response);
      break;
    case Request::kFileContainingSymbol:
      SetFile(pool.FindFileContainingSymbol(request.file_containing_symbol()),
              request.file_containing_symbol(), &response);
      break;
    case Request::kFileContainingExtension:
    case Request::kAllExtensionNumbersOfType:
      SetError(grpc::StatusCode::NOT_FOUND, "the messages have no extensions", &response);
      break;
    case Request::MESSAGE_REQUEST_NOT_SET:
      SetError(grpc::StatusCode::INVALID_ARGUMENT, "a request that asks for nothing", &response);
      break;
  }
  return response;
}

// One answer for each request, one after the other. Deletes itself.
class ReflectionStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  ReflectionStream() { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    if (incoming_.Length() > kMaxReflectionRequestBytes) {
      return Finish(
          {grpc::StatusCode::INVALID_ARGUMENT, "a reflection request of more than 4 KiB"});
    }
    wire::ServerReflectionRequest request;
    const absl::Status parsed = ParseRequest(incoming_, &request);
    incoming_.Clear();
    if (!parsed.ok()) return Finish(ToGrpcStatus(parsed));
    outgoing_ = ToBuffer(Answer(request));
    StartWrite(&outgoing_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish({grpc::StatusCode::CANCELLED, "the client left"});
    StartRead(&incoming_);
  }

  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
};

}  // namespace

ReflectionService::ReflectionService(const char* method) {
  using Handler = grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>;
  AddMethod(new grpc::internal::RpcServiceMethod(method, grpc::internal::RpcMethod::BIDI_STREAMING,
                                                 /*handler=*/nullptr));
  MarkMethodRawCallback(
      0, new Handler([](grpc::CallbackServerContext*) { return new ReflectionStream(); }));
}

}  // namespace infercache::rpc
