// infercache.v1.Cache over a store. Every method takes raw bytes: who calls is known before a
// request is parsed.

#pragma once

#include "common/background.h"
#include "infercache/v1/cache.grpc.pb.h"
#include "server/rpc/scope.h"

namespace infercache::rpc {

using CacheServiceBase = v1::Cache::WithRawCallbackMethod_Get<
    v1::Cache::WithRawCallbackMethod_Put<v1::Cache::WithRawCallbackMethod_GetStream<
        v1::Cache::WithRawCallbackMethod_PutStream<v1::Cache::WithRawCallbackMethod_Match<
            v1::Cache::WithRawCallbackMethod_Exists<v1::Cache::WithRawCallbackMethod_Delete<
                v1::Cache::WithRawCallbackMethod_Touch<v1::Cache::WithRawCallbackMethod_List<
                    v1::Cache::WithRawCallbackMethod_Flight<v1::Cache::Service>>>>>>>>>>;

// Thread-safe. Lists walk the whole index: they run on `background`.
class CacheService final : public CacheServiceBase {
 public:
  CacheService(const Environment& environment, Background& background)
      : environment_(environment), background_(background) {}

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Put(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Match(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Exists(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Touch(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GetStream(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* PutStream(grpc::CallbackServerContext* context,
                                                       grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Flight(
      grpc::CallbackServerContext* context) override;

 private:
  const Environment& environment_;
  Background& background_;
};

}  // namespace infercache::rpc
