// A real server on port 0 over a tiny store, the generated stubs, and verbs over them. Every test
// ends with the same question: did everything that calls took come back?

#pragma once

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "infercache/v1/admin.grpc.pb.h"
#include "infercache/v1/cache.grpc.pb.h"
#include "server/rpc/rpc_server.h"
#include "server/store/store.h"

namespace infercache::rpc {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

// Bytes that differ from their neighbours and between seeds.
std::string Pattern(size_t size, uint32_t seed);

// Waits until `condition` holds; false after `timeout`.
bool Eventually(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(10));

// One that loopback peers may use without a credential.
store::NamespaceSpec OpenNamespace(const std::string& name, uint64_t quota_bytes);

class RpcTest : public ::testing::Test {
 protected:
  // Before Start: what the server and the namespace "default" are made of.
  RpcOptions options;
  AdminHooks hooks;
  CallObserver* observer = nullptr;
  store::NamespaceSpec default_namespace = OpenNamespace("default", 8 * kMiB);
  uint64_t capacity_bytes = 64 * kMiB;

  RpcTest() {
    options.listen = {"127.0.0.1:0"};
    options.loopback_admin = AdminRight::kAll;
  }
  ~RpcTest() override;

  // Starts server and stubs. Tests that need other options set them first.
  void Start();
  std::shared_ptr<grpc::Channel> Connect(const std::string& address) const;

  // --- Verbs. Each returns the call's status and, on success, the answer. ---
  grpc::Status Put(const v1::PutRequest& request, v1::PutResponse* response = nullptr);
  grpc::Status Get(const v1::GetRequest& request, v1::GetResponse* response = nullptr);
  // One object; the test fails if it is not stored.
  void Store(const std::string& key, const std::string& value);
  // Its value, or nullopt if it is not there.
  std::optional<std::string> Load(const std::string& key);
  grpc::Status PutStream(const std::vector<v1::PutStreamRequest>& messages,
                         v1::PutStreamResponse* response = nullptr);
  // The object put together again; `header` may be null.
  grpc::Status GetStream(const v1::GetStreamRequest& request, std::string* value,
                         v1::GetStreamHeader* header = nullptr);

  std::shared_ptr<store::Namespace> DefaultNamespace() { return *store->FindNamespace("default"); }
  // Nothing is pinned, reserved, in flight or held by a response; waits for gRPC to let go.
  bool IsIdle();

  MonotonicClock clock;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<RpcServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Cache::Stub> cache;
  std::unique_ptr<v1::Admin::Stub> admin;
};

v1::PutRequest MakePut(const std::string& key, const std::string& value);
v1::GetRequest MakeGet(const std::vector<std::string>& keys);
v1::PutStreamRequest StreamHeader(const std::string& key, uint64_t size_bytes);
v1::PutStreamRequest StreamChunk(const std::string& bytes);

// The reason of the google.rpc.ErrorInfo in a failed call's details; "" if there is none.
std::string ReasonOf(const grpc::Status& status);

}  // namespace infercache::rpc
