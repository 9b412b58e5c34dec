// What the gRPC lane is measured against, each as a server of the same service, in a process of its
// own:
//
//   infercache_grpc_peer KIND --socket PATH --port-file PATH [--value-bytes N]
//
// Serves on the Unix socket and on a free loopback port, which it writes to the port file. Every
// setting is gRPC's default, except that messages may be large. Ends with SIGTERM.
//
//   plain-sync      the handler a user would write: generated synchronous service, the bytes field
//                   copied in and out of an unordered_map under a mutex
//   plain-callback  the same with the generated callback service
//   echo            no cache at all: equal answers to all calls, raw slices made at the start. What
//                   gRPC costs by itself, and so the upper bound

#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <climits>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <unordered_map>

#include "CLI/CLI.hpp"
#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"
#include "common/mutex.h"
#include "infercache/v1/cache.grpc.pb.h"

namespace infercache::bench {
namespace {

class PlainMap {
 public:
  void Get(const v1::GetRequest& request, v1::GetResponse* response) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(&mu_);
    for (const std::string& key : request.keys()) {
      v1::GetResult& result = *response->add_results();
      const auto it = values_.find(key);
      if (it == values_.end()) continue;
      result.set_found(true);
      result.set_value(it->second);
    }
  }
  void Put(const v1::PutRequest& request, v1::PutResponse* response) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(&mu_);
    for (const v1::PutItem& item : request.items()) {
      values_[item.key()] = item.value();
      response->add_results()->set_outcome(v1::PUT_OUTCOME_STORED);
    }
  }

 private:
  Mutex mu_;
  std::unordered_map<std::string, std::string> values_ ABSL_GUARDED_BY(mu_);
};

class PlainSync final : public v1::Cache::Service {
 public:
  grpc::Status Get(grpc::ServerContext*, const v1::GetRequest* request,
                   v1::GetResponse* response) override {
    map_.Get(*request, response);
    return grpc::Status::OK;
  }
  grpc::Status Put(grpc::ServerContext*, const v1::PutRequest* request,
                   v1::PutResponse* response) override {
    map_.Put(*request, response);
    return grpc::Status::OK;
  }

 private:
  PlainMap map_;
};

class PlainCallback final : public v1::Cache::WithCallbackMethod_Get<
                                v1::Cache::WithCallbackMethod_Put<v1::Cache::Service>> {
 public:
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context, const v1::GetRequest* request,
                                v1::GetResponse* response) override {
    map_.Get(*request, response);
    return Done(context);
  }
  grpc::ServerUnaryReactor* Put(grpc::CallbackServerContext* context, const v1::PutRequest* request,
                                v1::PutResponse* response) override {
    map_.Put(*request, response);
    return Done(context);
  }

 private:
  static grpc::ServerUnaryReactor* Done(grpc::CallbackServerContext* context) {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  PlainMap map_;
};

class Echo final : public v1::Cache::WithRawCallbackMethod_Get<
                       v1::Cache::WithRawCallbackMethod_Put<v1::Cache::Service>> {
 public:
  explicit Echo(size_t value_bytes) {
    v1::GetResponse got;
    got.add_results()->set_found(true);
    got.mutable_results(0)->set_value(std::string(value_bytes, 'v'));
    for (grpc::ByteBuffer& get : gets_) get = ToBuffer(got);
    v1::PutResponse put;
    put.add_results()->set_outcome(v1::PUT_OUTCOME_STORED);
    put_ = ToBuffer(put);
  }
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context, const grpc::ByteBuffer*,
                                grpc::ByteBuffer* response) override {
    return Answer(context, gets_[next_.fetch_add(1, std::memory_order_relaxed) % gets_.size()],
                  response);
  }
  grpc::ServerUnaryReactor* Put(grpc::CallbackServerContext* context, const grpc::ByteBuffer*,
                                grpc::ByteBuffer* response) override {
    return Answer(context, put_, response);
  }

 private:
  static grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
    const grpc::Slice slice(message.SerializeAsString());
    return grpc::ByteBuffer(&slice, 1);
  }
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer& answer,
                                          grpc::ByteBuffer* response) {
    *response = answer;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  // Equal, in places of their own: as a cache's, they stay in no CPU's cache together.
  std::array<grpc::ByteBuffer, 64> gets_;
  std::atomic<size_t> next_{0};
  grpc::ByteBuffer put_;
};

std::unique_ptr<grpc::Service> MakeService(const std::string& kind, size_t value_bytes) {
  if (kind == "plain-sync") return std::make_unique<PlainSync>();
  if (kind == "plain-callback") return std::make_unique<PlainCallback>();
  return std::make_unique<Echo>(value_bytes);
}

// Written under another name first: whoever waits for the file finds it complete.
void WritePort(const std::string& path, int port) {
  const std::string unfinished = path + ".new";
  std::ofstream(unfinished) << port << "\n";
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) Die("cannot write " + path);
}

int Main(int argc, char** argv) {
  std::string kind, socket, port_file;
  size_t value_bytes = size_t{1} << 20;
  CLI::App app("A gRPC server to measure infercached against");
  app.add_option("kind", kind)
      ->required()
      ->check(CLI::IsMember({"plain-sync", "plain-callback", "echo"}));
  app.add_option("--socket", socket)->required();
  app.add_option("--port-file", port_file)->required();
  app.add_option("--value-bytes", value_bytes, "Of an echoed get");
  CLI11_PARSE(app, argc, argv);

  // Before gRPC starts threads, so that all of them leave the signal to sigwait.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);

  const std::unique_ptr<grpc::Service> service = MakeService(kind, value_bytes);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(INT_MAX);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(service.get());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) Die(absl::StrCat(kind, ": cannot listen on ", socket));
  WritePort(port_file, port);
  int signal;
  sigwait(&stop, &signal);
  server->Shutdown();
  return 0;
}

}  // namespace
}  // namespace infercache::bench

int main(int argc, char** argv) { return infercache::bench::Main(argc, argv); }
