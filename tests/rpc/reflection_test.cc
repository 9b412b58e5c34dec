// What grpcurl sees of the daemon, over both names of server reflection.

#include "server/rpc/reflection.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/descriptor_database.h>
#include <grpcpp/support/sync_stream.h>
#include <gtest/gtest.h>

#include "server/rpc/message_bytes.h"
#include "server/rpc/reflection.pb.h"
#include "tests/rpc/rpc_fixture.h"

namespace infercache::rpc {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using Question = wire::ServerReflectionRequest;
using Reply = wire::ServerReflectionResponse;
using AnswerStream = grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;

class ReflectionTest : public RpcTest, public ::testing::WithParamInterface<const char*> {
 protected:
  std::unique_ptr<AnswerStream> Open() {
    const grpc::internal::RpcMethod method(GetParam(), grpc::internal::RpcMethod::BIDI_STREAMING);
    return std::unique_ptr<AnswerStream>(
        grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
            channel.get(), method, &context_));
  }

  static Reply Ask(AnswerStream& stream, const Question& request) {
    grpc::ByteBuffer bytes;
    Reply response;
    EXPECT_TRUE(stream.Write(ToBuffer(request)));
    EXPECT_TRUE(stream.Read(&bytes));
    const grpc::Status status =
        grpc::GenericDeserialize<grpc::ProtoBufferReader, Reply>(&bytes, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.original_request().SerializeAsString(), request.SerializeAsString());
    return response;
  }

  static Question Symbol(const std::string& name) {
    Question request;
    request.set_file_containing_symbol(name);
    return request;
  }

 private:
  grpc::ClientContext context_;
};

INSTANTIATE_TEST_SUITE_P(Names, ReflectionTest,
                         ::testing::Values(ReflectionService::kV1, ReflectionService::kV1Alpha));

// A client that knows nothing but these answers can build every message of every call.
TEST_P(ReflectionTest, WhatItListsItDescribesWithAllImports) {
  Start();
  const auto stream = Open();
  Question list;
  list.set_list_services("*");
  std::vector<std::string> names;
  const Reply listed = Ask(*stream, list);
  for (const auto& service : listed.list_services_response().service()) {
    names.push_back(service.name());
  }
  EXPECT_THAT(names, UnorderedElementsAre("infercache.v1.Cache", "infercache.v1.Admin"));

  for (const std::string& name : names) {
    const Reply response = Ask(*stream, Symbol(name));
    google::protobuf::SimpleDescriptorDatabase files;
    for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
      google::protobuf::FileDescriptorProto file;
      ASSERT_TRUE(file.ParseFromString(bytes));
      ASSERT_TRUE(files.Add(file)) << file.name() << " comes twice";
    }
    google::protobuf::DescriptorPool pool(&files);
    const auto* service = pool.FindServiceByName(name);
    ASSERT_NE(service, nullptr) << name;
    EXPECT_GT(service->method_count(), 0);
  }
}

TEST_P(ReflectionTest, FindsFilesByTheirNameAndSaysWhatItDoesNotHave) {
  Start();
  const auto stream = Open();
  Question by_name;
  by_name.set_file_by_filename("infercache/v1/types.proto");
  EXPECT_THAT(Ask(*stream, by_name).file_descriptor_response().file_descriptor_proto(), SizeIs(1));
  by_name.set_file_by_filename("infercache/v1/typos.proto");
  const Reply missing = Ask(*stream, by_name);
  EXPECT_EQ(missing.error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(missing.error_response().error_message(), HasSubstr("typos.proto"));
  EXPECT_EQ(Ask(*stream, Symbol("infercache.v1.Cash")).error_response().error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Ask(*stream, Question()).error_response().error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  Question extension;
  extension.mutable_file_containing_extension()->set_containing_type("infercache.v1.GetRequest");
  EXPECT_EQ(Ask(*stream, extension).error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(stream->WritesDone());
  EXPECT_TRUE(stream->Finish().ok());
}

// gRPC's own reflection made 2.7 GB of one message of 60 MiB, for whoever could connect.
TEST_P(ReflectionTest, ALargeMessageIsRefusedUnparsed) {
  Start();
  const auto stream = Open();
  const grpc::Slice fields(std::string(5000, '\x78'));  // field 15, nothing after it: never parsed
  ASSERT_TRUE(stream->Write(grpc::ByteBuffer(&fields, 1)));
  grpc::ByteBuffer none;
  EXPECT_FALSE(stream->Read(&none));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("4 KiB"));
}

TEST_P(ReflectionTest, WhatIsNoRequestEndsTheStream) {
  Start();
  const auto stream = Open();
  const grpc::Slice truncated(std::string("\x1a\x7f"));
  ASSERT_TRUE(stream->Write(grpc::ByteBuffer(&truncated, 1)));
  grpc::ByteBuffer none;
  EXPECT_FALSE(stream->Read(&none));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_P(ReflectionTest, CanBeTurnedOff) {
  options.reflection = false;
  Start();
  const auto stream = Open();
  grpc::ByteBuffer none;
  EXPECT_FALSE(stream->Read(&none));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace infercache::rpc
