// infercache.v1.Admin over a store and the daemon's hooks. Every method takes raw bytes: who calls
// is known before a request is parsed.

#pragma once

#include <string>
#include <vector>

#include "common/background.h"
#include "infercache/v1/admin.grpc.pb.h"
#include "server/rpc/scope.h"

namespace infercache::rpc {

using AdminServiceBase = v1::Admin::WithRawCallbackMethod_GetInfo<
    v1::Admin::WithRawCallbackMethod_GetStats<v1::Admin::WithRawCallbackMethod_CreateNamespace<
        v1::Admin::WithRawCallbackMethod_ListNamespaces<
            v1::Admin::WithRawCallbackMethod_DeleteNamespace<
                v1::Admin::WithRawCallbackMethod_SetPolicy<
                    v1::Admin::WithRawCallbackMethod_AdvanceClock<
                        v1::Admin::WithRawCallbackMethod_Flush<
                            v1::Admin::WithRawCallbackMethod_SetLogLevel<
                                v1::Admin::WithRawCallbackMethod_Drain<v1::Admin::Service>>>>>>>>>>;

// Thread-safe. What populates memory or walks an index runs on `background`.
class AdminService final : public AdminServiceBase {
 public:
  // `grpc_addresses`: where the server listens, for GetInfo.
  AdminService(const Environment& environment, AdminHooks hooks,
               std::vector<std::string> grpc_addresses, Background& background);

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* bytes,
                                    grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* bytes,
                                     grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* CreateNamespace(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* bytes,
                                            grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* ListNamespaces(grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* bytes,
                                           grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* DeleteNamespace(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* bytes,
                                            grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* SetPolicy(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* bytes,
                                      grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* AdvanceClock(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* bytes,
                                         grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* Flush(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* bytes, grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* bytes,
                                        grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* bytes, grpc::ByteBuffer* answer) override;

 private:
  // Who calls, then what is said: INVALID_ARGUMENT if the bytes are no such request.
  template <typename Request>
  absl::StatusOr<Request> Admit(UnaryCall& call, Method method,
                                const grpc::CallbackServerContext& context,
                                const grpc::ByteBuffer& bytes) const;
  // Runs `work(request, &answer)`, if the caller may call, and completes the call with it.
  template <typename Response, typename Request, typename Work>
  static void Answer(UnaryCall& call, const absl::StatusOr<Request>& request,
                     grpc::ByteBuffer* response, Work work);
  // That as the whole of a call, here or in the background.
  template <typename Request, typename Response, typename Work>
  grpc::ServerUnaryReactor* Serve(Method method, const grpc::CallbackServerContext& context,
                                  const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                  Work work);
  template <typename Request, typename Response, typename Work>
  grpc::ServerUnaryReactor* ServeLater(Method method, const grpc::CallbackServerContext& context,
                                       const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                       Work work);

  absl::Status CheckRight(Method method, const grpc::ServerContextBase& context) const;

  const Environment& environment_;
  const AdminHooks hooks_;
  const std::string grpc_address_;
  Background& background_;
};

}  // namespace infercache::rpc
