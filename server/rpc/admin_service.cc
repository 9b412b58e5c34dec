#include "server/rpc/admin_service.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "convert/types.h"
#include "server/rpc/admin_stats.h"
#include "server/rpc/error.h"
#include "server/rpc/message_bytes.h"

namespace infercache::rpc {
namespace {

bool IsNobody(const v1::LocalPeers& peers) {
  return !peers.everyone() && peers.users().empty() && peers.groups().empty();
}

store::LocalAccess ToAccess(const v1::LocalPeers& peers) {
  return {.everyone = peers.everyone(),
          .users = {peers.users().begin(), peers.users().end()},
          .groups = {peers.groups().begin(), peers.groups().end()}};
}

void SetPeers(const store::LocalAccess& access, v1::LocalPeers* out) {
  out->set_everyone(access.everyone);
  if (access.everyone) return;
  out->mutable_users()->Add(access.users.begin(), access.users.end());
  out->mutable_groups()->Add(access.groups.begin(), access.groups.end());
}

absl::StatusOr<store::NamespaceSpec> ToSpec(const v1::NamespaceSpec& message,
                                            uint64_t chunk_bytes) {
  store::NamespaceSpec spec;
  spec.name = message.name();
  spec.quota_bytes = message.quota_bytes();
  spec.max_objects = message.max_objects();
  if (!message.policy().empty()) spec.policy = message.policy();
  spec.grpc_open = message.grpc_open();
  spec.checksums = message.checksums();
  spec.virtual_clock = message.virtual_clock();
  if (!message.tiers().empty()) {
    return absl::InvalidArgumentError("spec.tiers: tiers come from the daemon's configuration");
  }
  if (message.has_local_users()) spec.local_users = ToAccess(message.local_users());
  if (message.has_local_writers()) {
    spec.writable_by_clients = !IsNobody(message.local_writers());
    // Else whoever may use it may send its puts.
    if (spec.writable_by_clients) spec.local_writers = ToAccess(message.local_writers());
  }
  ASSIGN_OR_RETURN(const Fingerprint required,
                   Fingerprint::Make(FromProto(message.required_fingerprint())));
  spec.required_fingerprint = required.entries();

  if (message.live_objects() == 0) return spec;
  if (message.live_object_bytes() == 0 || message.live_object_bytes() > kMaxObjectBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec.live_object_bytes: ", message.live_object_bytes(),
                     "; with live_objects it must lie between 1 and ", kMaxObjectBytes));
  }
  if (message.live_objects() > kMaxObjectsPerNamespace) {
    return absl::InvalidArgumentError(absl::StrCat("spec.live_objects: ", message.live_objects(),
                                                   "; the limit is ", kMaxObjectsPerNamespace));
  }
  // Objects that are being written, or that a reader still holds, need records too.
  spec.max_objects = message.live_objects() + message.live_objects() / 8 + 1024;
  spec.quota_bytes =
      store::QuotaForLiveObjects(message.live_objects(), message.live_object_bytes(), chunk_bytes);
  return spec;
}

void SetSpec(const store::Namespace& ns, v1::NamespaceSpec* out) {
  const store::NamespaceSpec& spec = ns.spec();
  out->set_name(spec.name);
  out->set_quota_bytes(spec.quota_bytes);
  out->set_max_objects(spec.max_objects);
  out->set_policy(ns.policy());
  out->set_grpc_open(spec.grpc_open);
  out->set_checksums(spec.checksums);
  out->set_virtual_clock(spec.virtual_clock);
  SetPeers(spec.local_users, out->mutable_local_users());
  out->mutable_local_writers();  // nobody
  if (spec.writable_by_clients) SetPeers(spec.local_writers, out->mutable_local_writers());
  for (const store::DeviceTier& tier : ns.device_tiers()) SetTier(tier, out->add_tiers());
  ToProto(spec.required_fingerprint, out->mutable_required_fingerprint());
}

// What is handed over on the socket is gRPC too.
std::string GrpcAddress(std::vector<std::string> addresses, const std::string& socket_path) {
  const std::string socket = absl::StrCat("unix:", socket_path);
  if (!socket_path.empty() &&
      std::find(addresses.begin(), addresses.end(), socket) == addresses.end()) {
    addresses.push_back(socket);
  }
  return absl::StrJoin(addresses, ",");
}

}  // namespace

AdminService::AdminService(const Environment& environment, AdminHooks hooks,
                           std::vector<std::string> grpc_addresses, Background& background)
    : environment_(environment),
      hooks_(std::move(hooks)),
      grpc_address_(GrpcAddress(std::move(grpc_addresses), hooks_.socket_path)),
      background_(background) {}

absl::Status AdminService::CheckRight(Method method, const grpc::ServerContextBase& context) const {
  const bool reads = method == Method::kGetInfo || method == Method::kGetStats ||
                     method == Method::kListNamespaces;
  ASSIGN_OR_RETURN(const Peer peer, Identify(environment_, context));
  return peer.caller.CheckAdmin(reads ? AdminRight::kRead : AdminRight::kAll);
}

template <typename Request>
absl::StatusOr<Request> AdminService::Admit(UnaryCall& call, Method method,
                                            const grpc::CallbackServerContext& context,
                                            const grpc::ByteBuffer& bytes) const {
  call.scope().AddRequestBytes(bytes.Length());
  RETURN_IF_ERROR(call.scope().admission());
  RETURN_IF_ERROR(CheckRight(method, context));
  Request request;
  RETURN_IF_ERROR(ParseRequest(bytes, &request));
  return request;
}

template <typename Response, typename Request, typename Work>
void AdminService::Answer(UnaryCall& call, const absl::StatusOr<Request>& request,
                          grpc::ByteBuffer* response, Work work) {
  if (!request.ok()) return call.Complete(request.status());
  Response answer;
  const absl::Status status = work(*request, &answer);
  if (status.ok()) {
    *response = ToBuffer(answer);
    call.scope().AddResponseBytes(response->Length());
  }
  call.Complete(status);
}

template <typename Request, typename Response, typename Work>
grpc::ServerUnaryReactor* AdminService::Serve(Method method,
                                              const grpc::CallbackServerContext& context,
                                              const grpc::ByteBuffer& request,
                                              grpc::ByteBuffer* response, Work work) {
  auto* call = new UnaryCall(environment_.monitor, method);
  Answer<Response>(*call, Admit<Request>(*call, method, context, request), response, work);
  return call;
}

template <typename Request, typename Response, typename Work>
grpc::ServerUnaryReactor* AdminService::ServeLater(Method method,
                                                   const grpc::CallbackServerContext& context,
                                                   const grpc::ByteBuffer& bytes,
                                                   grpc::ByteBuffer* response, Work work) {
  auto* call = new UnaryCall(environment_.monitor, method);
  auto request = Admit<Request>(*call, method, context, bytes);
  if (!request.ok()) {
    call->Complete(request.status());
    return call;
  }
  // Context and response live until the call completes.
  background_.Post([call, &context, response, work, request = std::move(request)] {
    if (context.IsCancelled()) return call->Complete(absl::CancelledError("the client left"));
    Answer<Response>(*call, request, response, work);
  });
  return call;
}

grpc::ServerUnaryReactor* AdminService::GetInfo(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* bytes,
                                                grpc::ByteBuffer* answer) {
  return Serve<v1::GetInfoRequest, v1::GetInfoResponse>(
      Method::kGetInfo, *context, *bytes, answer,
      [this](const v1::GetInfoRequest&, v1::GetInfoResponse* response) {
        const auto uptime = std::chrono::steady_clock::now() - hooks_.started;
        response->set_version(hooks_.version);
        response->set_revision(hooks_.revision);
        response->set_uptime_ms(
            std::chrono::duration_cast<std::chrono::milliseconds>(uptime).count());
        response->set_capacity_bytes(environment_.store.options().capacity_bytes);
        response->set_max_message_bytes(environment_.max_message_bytes);
        response->set_pid(getpid());
        response->set_draining(environment_.draining.load(std::memory_order_relaxed));
        response->set_grpc_address(grpc_address_);
        response->set_http_address(hooks_.http_address);
        response->set_socket_path(hooks_.socket_path);
        response->set_arena_pages(hooks_.arena_pages);
        response->set_lock_memory(environment_.store.options().lock_memory);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::GetStats(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* bytes,
                                                 grpc::ByteBuffer* answer) {
  return Serve<v1::GetStatsRequest, v1::GetStatsResponse>(
      Method::kGetStats, *context, *bytes, answer,
      [this](const v1::GetStatsRequest& request, v1::GetStatsResponse* response) -> absl::Status {
        response->set_pinned_response_bytes(environment_.budget.held_bytes());
        response->set_max_pinned_response_bytes(environment_.budget.limits().total_bytes);
        response->set_calls_in_flight(environment_.monitor.in_flight());
        if (hooks_.local.stats) SetLocalLane(hooks_.local.stats(), response->mutable_local());
        if (!request.namespace_().empty()) {
          ASSIGN_OR_RETURN(const auto ns, environment_.store.FindNamespace(request.namespace_()));
          SetStats(*ns, hooks_.local, response->add_namespaces());
          return absl::OkStatus();
        }
        for (const auto& ns : environment_.store.Namespaces()) {
          SetStats(*ns, hooks_.local, response->add_namespaces());
        }
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::CreateNamespace(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* bytes,
                                                        grpc::ByteBuffer* answer) {
  return ServeLater<v1::CreateNamespaceRequest, v1::CreateNamespaceResponse>(
      Method::kCreateNamespace, *context, *bytes, answer,
      [this](const v1::CreateNamespaceRequest& request,
             v1::CreateNamespaceResponse* response) -> absl::Status {
        if (request.spec().virtual_clock() && !hooks_.allow_virtual_clock) {
          return absl::FailedPreconditionError(
              "spec.virtual_clock: the daemon was started without allow_virtual_clock");
        }
        ASSIGN_OR_RETURN(store::NamespaceSpec spec,
                         ToSpec(request.spec(), environment_.store.options().chunk_bytes));
        ASSIGN_OR_RETURN(const auto ns, environment_.store.CreateNamespace(std::move(spec)));
        SetSpec(*ns, response->mutable_spec());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::ListNamespaces(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* bytes,
                                                       grpc::ByteBuffer* answer) {
  return Serve<v1::ListNamespacesRequest, v1::ListNamespacesResponse>(
      Method::kListNamespaces, *context, *bytes, answer,
      [this](const v1::ListNamespacesRequest&, v1::ListNamespacesResponse* response) {
        for (const auto& ns : environment_.store.Namespaces()) {
          SetSpec(*ns, response->add_namespaces());
        }
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::DeleteNamespace(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* bytes,
                                                        grpc::ByteBuffer* answer) {
  return ServeLater<v1::DeleteNamespaceRequest, v1::DeleteNamespaceResponse>(
      Method::kDeleteNamespace, *context, *bytes, answer,
      [this](const v1::DeleteNamespaceRequest& request, v1::DeleteNamespaceResponse*) {
        return environment_.store.DeleteNamespace(request.name());
      });
}

grpc::ServerUnaryReactor* AdminService::SetPolicy(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* bytes,
                                                  grpc::ByteBuffer* answer) {
  return ServeLater<v1::SetPolicyRequest, v1::SetPolicyResponse>(
      Method::kSetPolicy, *context, *bytes, answer,
      [this](const v1::SetPolicyRequest& request, v1::SetPolicyResponse* response) -> absl::Status {
        ASSIGN_OR_RETURN(const auto ns, environment_.store.FindNamespace(request.namespace_()));
        ASSIGN_OR_RETURN(*response->mutable_previous_policy(), ns->SetPolicy(request.policy()));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::AdvanceClock(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* bytes,
                                                     grpc::ByteBuffer* answer) {
  return Serve<v1::AdvanceClockRequest, v1::AdvanceClockResponse>(
      Method::kAdvanceClock, *context, *bytes, answer,
      [this](const v1::AdvanceClockRequest& request, v1::AdvanceClockResponse*) -> absl::Status {
        ASSIGN_OR_RETURN(const auto ns, environment_.store.FindNamespace(request.namespace_()));
        return ns->AdvanceClock(request.since_start_ms());
      });
}

grpc::ServerUnaryReactor* AdminService::Flush(grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* bytes,
                                              grpc::ByteBuffer* answer) {
  return ServeLater<v1::FlushRequest, v1::FlushResponse>(
      Method::kFlush, *context, *bytes, answer,
      [this](const v1::FlushRequest& request, v1::FlushResponse* response) -> absl::Status {
        ASSIGN_OR_RETURN(const auto ns, environment_.store.FindNamespace(request.namespace_()));
        response->set_erased(ns->Flush(request.key_prefix()));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* bytes,
                                                    grpc::ByteBuffer* answer) {
  return Serve<v1::SetLogLevelRequest, v1::SetLogLevelResponse>(
      Method::kSetLogLevel, *context, *bytes, answer,
      [this](const v1::SetLogLevelRequest& request,
             v1::SetLogLevelResponse* response) -> absl::Status {
        if (!hooks_.set_log_level) return absl::UnimplementedError("no log level here");
        ASSIGN_OR_RETURN(std::string previous, hooks_.set_log_level(request.level()));
        response->set_previous_level(std::move(previous));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* bytes,
                                              grpc::ByteBuffer* answer) {
  return Serve<v1::DrainRequest, v1::DrainResponse>(
      Method::kDrain, *context, *bytes, answer,
      [this](const v1::DrainRequest&, v1::DrainResponse*) -> absl::Status {
        if (!hooks_.request_drain) return absl::UnimplementedError("this daemon cannot drain");
        hooks_.request_drain();
        return absl::OkStatus();
      });
}

}  // namespace infercache::rpc
