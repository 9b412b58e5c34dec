#include "tests/e2e/test_client.h"

#include <chrono>
#include <utility>

namespace infercache::e2e {
namespace {

constexpr std::chrono::seconds kDeadline(30);

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  // A subchannel shared with another test's client would carry that one's connection state over.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

TestClient::TestClient(const std::string& address, std::string token)
    : token_(std::move(token)),
      channel_(Connect(address)),
      cache_(v1::Cache::NewStub(channel_)),
      admin_(v1::Admin::NewStub(channel_)) {}

std::unique_ptr<grpc::ClientContext> TestClient::Context() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + kDeadline);
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
  return context;
}

grpc::Status TestClient::Put(const std::string& ns, const std::string& key,
                             const std::string& value) {
  v1::PutRequest request;
  request.mutable_scope()->set_namespace_(ns);
  v1::PutItem* item = request.add_items();
  item->set_key(key);
  item->set_value(value);
  v1::PutResponse response;
  const grpc::Status status = cache_->Put(Context().get(), request, &response);
  if (status.ok() && response.results(0).outcome() == v1::PUT_OUTCOME_REFUSED) {
    return grpc::Status(static_cast<grpc::StatusCode>(response.results(0).code()),
                        response.results(0).message());
  }
  return status;
}

grpc::Status TestClient::Get(const std::string& ns, const std::string& key, bool& found,
                             std::string& value) {
  v1::GetRequest request;
  request.mutable_scope()->set_namespace_(ns);
  request.add_keys(key);
  v1::GetResponse response;
  const grpc::Status status = cache_->Get(Context().get(), request, &response);
  found = status.ok() && response.results(0).found();
  value = found ? response.results(0).value() : "";
  return status;
}

grpc::Status TestClient::Stats(v1::GetStatsResponse& stats) {
  return admin_->GetStats(Context().get(), v1::GetStatsRequest(), &stats);
}

grpc::Status TestClient::Info(v1::GetInfoResponse& info) {
  return admin_->GetInfo(Context().get(), v1::GetInfoRequest(), &info);
}

grpc::Status TestClient::Drain() {
  v1::DrainResponse response;
  return admin_->Drain(Context().get(), v1::DrainRequest(), &response);
}

HalfPut::HalfPut(TestClient& client, const std::string& key)
    : value_(100'000, 'v'), context_(client.Context()) {
  writer_ = client.cache().PutStream(context_.get(), &response_);
  v1::PutStreamRequest header;
  header.mutable_header()->mutable_scope()->set_namespace_("default");
  header.mutable_header()->set_key(key);
  header.mutable_header()->set_size_bytes(value_.size());
  writer_->Write(header);
  v1::PutStreamRequest half;
  half.set_chunk(value_.substr(0, value_.size() / 2));
  writer_->Write(half);
  v1::GetStatsResponse stats;
  do {
    if (!client.Stats(stats).ok()) return;  // the test will see it
  } while (stats.namespaces(0).reservations() == 0);
}

grpc::Status HalfPut::Finish() {
  v1::PutStreamRequest rest;
  rest.set_chunk(value_.substr(value_.size() / 2));
  writer_->Write(rest);
  writer_->WritesDone();
  return writer_->Finish();
}

grpc::Status HalfPut::Await() { return writer_->Finish(); }

}  // namespace infercache::e2e
