// infercache.v1.Admin over a store and the daemon's hooks.

#pragma once

#include <string>
#include <vector>

#include "infercache/v1/admin.grpc.pb.h"
#include "server/rpc/background.h"
#include "server/rpc/scope.h"

namespace infercache::rpc {

// Thread-safe. What populates memory or walks an index runs on `background`.
class AdminService final : public v1::Admin::CallbackService {
 public:
  // `grpc_addresses`: where the server listens, for GetInfo.
  AdminService(const Environment& environment, AdminHooks hooks,
               std::vector<std::string> grpc_addresses, Background& background);

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context,
                                    const v1::GetInfoRequest* request,
                                    v1::GetInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const v1::GetStatsRequest* request,
                                     v1::GetStatsResponse* response) override;
  grpc::ServerUnaryReactor* CreateNamespace(grpc::CallbackServerContext* context,
                                            const v1::CreateNamespaceRequest* request,
                                            v1::CreateNamespaceResponse* response) override;
  grpc::ServerUnaryReactor* ListNamespaces(grpc::CallbackServerContext* context,
                                           const v1::ListNamespacesRequest* request,
                                           v1::ListNamespacesResponse* response) override;
  grpc::ServerUnaryReactor* DeleteNamespace(grpc::CallbackServerContext* context,
                                            const v1::DeleteNamespaceRequest* request,
                                            v1::DeleteNamespaceResponse* response) override;
  grpc::ServerUnaryReactor* SetPolicy(grpc::CallbackServerContext* context,
                                      const v1::SetPolicyRequest* request,
                                      v1::SetPolicyResponse* response) override;
  grpc::ServerUnaryReactor* AdvanceClock(grpc::CallbackServerContext* context,
                                         const v1::AdvanceClockRequest* request,
                                         v1::AdvanceClockResponse* response) override;
  grpc::ServerUnaryReactor* Flush(grpc::CallbackServerContext* context,
                                  const v1::FlushRequest* request,
                                  v1::FlushResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  template <typename Request>
  absl::Status Admit(UnaryCall& call, Method method, const grpc::CallbackServerContext& context,
                     const Request& request) const;
  template <typename Response>
  static void Answer(UnaryCall& call, const absl::Status& status, const Response& response);
  // Runs `work()` as the whole of a call, here or in the background, if the caller may.
  template <typename Request, typename Response, typename Work>
  grpc::ServerUnaryReactor* Serve(Method method, const grpc::CallbackServerContext& context,
                                  const Request& request, Response* response, Work work);
  template <typename Request, typename Response, typename Work>
  grpc::ServerUnaryReactor* ServeLater(Method method, const grpc::CallbackServerContext& context,
                                       const Request& request, Response* response, Work work);

  absl::Status CheckRight(Method method, const grpc::ServerContextBase& context) const;

  const Environment& environment_;
  const AdminHooks hooks_;
  const std::string grpc_address_;
  Background& background_;
};

}  // namespace infercache::rpc
