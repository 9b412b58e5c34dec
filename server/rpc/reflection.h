// Server reflection: lets grpcurl and its like list the calls and see their messages.

#pragma once

#include <grpcpp/impl/codegen/service_type.h>

namespace infercache::rpc {

// Answers everyone, and keeps nothing of what it is told. gRPC's own service would: it parses
// messages of any size, tens of times as large in memory, before any credential was asked for.
// One for each name: clients ask for v1, the older ones for v1alpha. Thread-safe.
class ReflectionService final : public grpc::Service {
 public:
  static constexpr char kV1[] = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
  static constexpr char kV1Alpha[] =
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

  // `method`: one of the above.
  explicit ReflectionService(const char* method);
};

}  // namespace infercache::rpc
