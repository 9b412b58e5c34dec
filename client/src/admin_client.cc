#include "client/src/admin_client.h"

#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/src/channel.h"
#include "client/src/health.h"
#include "client/src/remote_call.h"
#include "common/status_macros.h"
#include "grpcpp/client_context.h"
#include "infercache/v1/admin.grpc.pb.h"

namespace infercache {

class AdminClient::Impl {
 public:
  Impl(RemoteChannel channel, absl::Duration deadline)
      : channel_(std::move(channel)),
        deadline_(deadline),
        stub_(v1::Admin::NewStub(channel_.channel)),
        calls_(channel_) {}

  const std::string& endpoint() const { return channel_.endpoint.text; }

  absl::Time DeadlineOf(const CallOptions& call) const {
    return absl::Now() + call.deadline.value_or(deadline_);
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*,
                                                                        const Request&, Response*),
                                const Request& request, const CallOptions& call) {
    grpc::ClientContext context;
    channel_.Prepare(context, DeadlineOf(call));
    Response response;
    RETURN_IF_ERROR(FromGrpc((*stub_.*method)(&context, request, &response)));
    return response;
  }

  absl::Status CheckHealth(std::string_view service, const CallOptions& call) {
    absl::Notification answered;
    absl::Status result;
    RemoteCalls::Operation operation(calls_);
    calls_.Unary(kHealthCheckMethod, MakeHealthRequest(service), DeadlineOf(call),
                 /*wait_for_ready=*/false,
                 [&answered, &result](absl::Status status, grpc::ByteBuffer& response) {
                   result = status.ok() ? ParseHealthResponse(response) : std::move(status);
                   answered.Notify();
                 });
    answered.WaitForNotification();
    return result;
  }

 private:
  const RemoteChannel channel_;
  const absl::Duration deadline_;
  const std::unique_ptr<v1::Admin::Stub> stub_;
  RemoteCalls calls_;
};

absl::StatusOr<std::unique_ptr<AdminClient>> AdminClient::Connect(const ClientOptions& options) {
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("deadline must be positive");
  }
  ASSIGN_OR_RETURN(RemoteChannel channel, MakeChannel(options));
  return std::unique_ptr<AdminClient>(
      new AdminClient(std::make_unique<Impl>(std::move(channel), options.deadline)));
}

AdminClient::AdminClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminClient::~AdminClient() = default;

const std::string& AdminClient::endpoint() const { return impl_->endpoint(); }

absl::StatusOr<v1::GetInfoResponse> AdminClient::GetInfo(const CallOptions& call) {
  return impl_->Call(&v1::Admin::Stub::GetInfo, v1::GetInfoRequest(), call);
}

absl::StatusOr<v1::GetStatsResponse> AdminClient::GetStats(std::string_view namespace_name,
                                                           const CallOptions& call) {
  v1::GetStatsRequest request;
  request.set_namespace_(std::string(namespace_name));
  return impl_->Call(&v1::Admin::Stub::GetStats, request, call);
}

absl::StatusOr<v1::NamespaceSpec> AdminClient::CreateNamespace(const v1::NamespaceSpec& spec,
                                                               const CallOptions& call) {
  v1::CreateNamespaceRequest request;
  *request.mutable_spec() = spec;
  ASSIGN_OR_RETURN(v1::CreateNamespaceResponse response,
                   impl_->Call(&v1::Admin::Stub::CreateNamespace, request, call));
  return std::move(*response.mutable_spec());
}

absl::StatusOr<v1::ListNamespacesResponse> AdminClient::ListNamespaces(const CallOptions& call) {
  return impl_->Call(&v1::Admin::Stub::ListNamespaces, v1::ListNamespacesRequest(), call);
}

absl::Status AdminClient::DeleteNamespace(std::string_view name, const CallOptions& call) {
  v1::DeleteNamespaceRequest request;
  request.set_name(std::string(name));
  return impl_->Call(&v1::Admin::Stub::DeleteNamespace, request, call).status();
}

absl::StatusOr<std::string> AdminClient::SetPolicy(std::string_view namespace_name,
                                                   std::string_view policy,
                                                   const CallOptions& call) {
  v1::SetPolicyRequest request;
  request.set_namespace_(std::string(namespace_name));
  request.set_policy(std::string(policy));
  ASSIGN_OR_RETURN(v1::SetPolicyResponse response,
                   impl_->Call(&v1::Admin::Stub::SetPolicy, request, call));
  return std::move(*response.mutable_previous_policy());
}

absl::Status AdminClient::AdvanceClock(std::string_view namespace_name, uint64_t since_start_ms,
                                       const CallOptions& call) {
  v1::AdvanceClockRequest request;
  request.set_namespace_(std::string(namespace_name));
  request.set_since_start_ms(since_start_ms);
  return impl_->Call(&v1::Admin::Stub::AdvanceClock, request, call).status();
}

absl::StatusOr<uint64_t> AdminClient::Flush(std::string_view namespace_name,
                                            std::string_view key_prefix, const CallOptions& call) {
  v1::FlushRequest request;
  request.set_namespace_(std::string(namespace_name));
  request.set_key_prefix(std::string(key_prefix));
  ASSIGN_OR_RETURN(const v1::FlushResponse response,
                   impl_->Call(&v1::Admin::Stub::Flush, request, call));
  return response.erased();
}

absl::StatusOr<std::string> AdminClient::SetLogLevel(std::string_view level,
                                                     const CallOptions& call) {
  v1::SetLogLevelRequest request;
  request.set_level(std::string(level));
  ASSIGN_OR_RETURN(v1::SetLogLevelResponse response,
                   impl_->Call(&v1::Admin::Stub::SetLogLevel, request, call));
  return std::move(*response.mutable_previous_level());
}

absl::Status AdminClient::Drain(const CallOptions& call) {
  return impl_->Call(&v1::Admin::Stub::Drain, v1::DrainRequest(), call).status();
}

absl::Status AdminClient::CheckHealth(std::string_view service, const CallOptions& call) {
  return impl_->CheckHealth(service, call);
}

}  // namespace infercache
