// A client of the generated stubs, as any language would have it: for tests of the daemon as a
// whole.

#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "infercache/v1/admin.grpc.pb.h"
#include "infercache/v1/cache.grpc.pb.h"

namespace infercache::e2e {

// Every call has a deadline of 30 s.
class TestClient {
 public:
  // `address` as the daemon announces it, or "unix:PATH". `token` is sent as a bearer; empty =
  // none.
  explicit TestClient(const std::string& address, std::string token = "");

  grpc::Status Put(const std::string& ns, const std::string& key, const std::string& value);
  // found = false on a miss.
  grpc::Status Get(const std::string& ns, const std::string& key, bool& found, std::string& value);
  grpc::Status Stats(v1::GetStatsResponse& stats);
  grpc::Status Info(v1::GetInfoResponse& info);
  grpc::Status Drain();

  std::unique_ptr<grpc::ClientContext> Context() const;
  v1::Cache::Stub& cache() { return *cache_; }
  v1::Admin::Stub& admin() { return *admin_; }

 private:
  const std::string token_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Cache::Stub> cache_;
  const std::unique_ptr<v1::Admin::Stub> admin_;
};

// A PutStream of one object whose second half is not sent yet.
class HalfPut {
 public:
  // Returns once the daemon counts the call.
  HalfPut(TestClient& client, const std::string& key);
  // Sends the rest and returns how the call ended.
  grpc::Status Finish();
  // Only waits for the end.
  grpc::Status Await();

  const v1::PutStreamResponse& response() const { return response_; }
  const std::string& value() const { return value_; }

 private:
  const std::string value_;
  std::unique_ptr<grpc::ClientContext> context_;
  v1::PutStreamResponse response_;
  std::unique_ptr<grpc::ClientWriter<v1::PutStreamRequest>> writer_;
};

}  // namespace infercache::e2e
