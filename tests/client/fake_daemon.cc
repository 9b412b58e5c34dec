#include "tests/client/fake_daemon.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/server_builder.h"

namespace infercache {

class FakeDaemon::Call final : public grpc::ServerGenericBidiReactor {
 public:
  Call(FakeDaemon& daemon, grpc::GenericCallbackServerContext* context)
      : daemon_(daemon), method_(context->method()) {
    asked_.method = std::string_view(method_).substr(method_.rfind('/') + 1);
    const auto& metadata = context->client_metadata();
    if (const auto it = metadata.find("authorization"); it != metadata.end()) {
      asked_.authorization.assign(it->second.data(), it->second.size());
    }
    early_ = std::count(daemon.early_methods_.begin(), daemon.early_methods_.end(),
                        std::string(asked_.method)) > 0;
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Decide();
    grpc::Slice slice;
    if (incoming_.DumpToSingleSlice(&slice).ok()) {
      asked_.messages.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
    if (early_) return Decide();
    incoming_.Clear();
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    ++written_;
    ok ? Continue() : Finish(answer_.status);
  }

  void OnCancel() override {
    given_up_ = true;
    LetGo();
  }

  void OnDone() override { delete this; }

 private:
  void Decide() {
    ++daemon_.calls_;
    answer_ = daemon_.script_(asked_);
    if (!answer_.never) return Continue();
    holding_ = true;
    if (given_up_) LetGo();
  }

  // Once, whether the cancellation comes before or after the script's decision to hold.
  void LetGo() {
    if (!holding_.exchange(false)) return;
    ++daemon_.cancelled_;
    Finish(grpc::Status::CANCELLED);
  }

  void Continue() {
    if (written_ == answer_.messages.size()) return Finish(answer_.status);
    const grpc::Slice slice(answer_.messages[written_]);
    outgoing_ = grpc::ByteBuffer(&slice, 1);
    StartWrite(&outgoing_);
  }

  FakeDaemon& daemon_;
  const std::string method_;
  Asked asked_;
  bool early_ = false;
  std::atomic<bool> holding_{false};
  std::atomic<bool> given_up_{false};
  Answer answer_;
  size_t written_ = 0;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
};

class FakeDaemon::Service final : public grpc::CallbackGenericService {
 public:
  explicit Service(FakeDaemon& daemon) : daemon_(daemon) {}
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Call(daemon_, context);
  }

 private:
  FakeDaemon& daemon_;
};

FakeDaemon::FakeDaemon(Script script, std::vector<std::string> early_methods,
                       const std::string& address)
    : script_(std::move(script)),
      early_methods_(std::move(early_methods)),
      service_(std::make_unique<Service>(*this)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterCallbackGenericService(service_.get());
  server_ = builder.BuildAndStart();
}

FakeDaemon::~FakeDaemon() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

std::string FakeDaemon::endpoint() const { return absl::StrCat("127.0.0.1:", port_); }

}  // namespace infercache
