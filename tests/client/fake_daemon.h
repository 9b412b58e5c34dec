// A daemon whose every answer a test writes: any bytes, any number of messages, any status, or
// none.

#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "grpcpp/server.h"
#include "grpcpp/support/status.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {

struct Answer {
  std::vector<std::string> messages = {};
  grpc::Status status = grpc::Status::OK;
  bool never = false;  // holds the call until it is cancelled

  static Answer Of(const google::protobuf::MessageLite& message) {
    return {.messages = {message.SerializeAsString()}};
  }
  static Answer Never() { return {.never = true}; }
};

struct Asked {
  std::string_view method;  // "Get", "Check", ...
  std::vector<std::string> messages;
  std::string authorization;

  template <typename Message>
  Message As() const {
    Message message;
    message.ParseFromString(messages.at(0));
    return message;
  }
};

class FakeDaemon {
 public:
  // Called on gRPC threads, several at once, when the client has sent all its messages; for
  // `early_methods` after the first.
  using Script = std::function<Answer(const Asked& asked)>;

  explicit FakeDaemon(Script script, std::vector<std::string> early_methods = {},
                      const std::string& address = "127.0.0.1:0");
  ~FakeDaemon();

  std::string endpoint() const;
  int calls() const { return calls_; }          // that reached the script
  int cancelled() const { return cancelled_; }  // held ones that the client gave up

 private:
  class Service;
  class Call;

  const Script script_;
  const std::vector<std::string> early_methods_;
  std::atomic<int> calls_{0};
  std::atomic<int> cancelled_{0};
  int port_ = 0;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace infercache
