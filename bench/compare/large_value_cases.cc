// 1 MiB over gRPC beside the handler a user would write and beside a bare echo. The echo bounds
// what can be asked for: it is itself less than twice as fast as that handler.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/block_key.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

constexpr size_t kLargeBytes = size_t{1} << 20;
// As many as stay in no CPU's cache together.
constexpr size_t kKeys = 64;

std::string Value(uint64_t seed) {
  std::string value(kLargeBytes, '\0');
  uint64_t state = seed * 2 + 1;
  for (char& byte : value) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<char>(state >> 56);
  }
  return value;
}

// The servers that keep what is put.
std::vector<std::string> Caches(const Servers& servers) {
  return {servers.ours, servers.plain_sync, servers.plain_callback};
}

void FillAndVerify(const std::string& target) {
  ProtobufClient client(target);
  for (size_t i = 0; i < kKeys; ++i) client.Put(MakePut(BlockKey(i), Value(i)));
  for (size_t i = 0; i < kKeys; ++i) {
    const v1::GetResponse response = client.Get(MakeGet(BlockKey(i)));
    if (response.results_size() != 1 || response.results(0).value() != Value(i)) {
      Die(absl::StrCat(target, ": a get does not return what was put"));
    }
  }
}

// A side that sends the requests in turn; the answers have at least `answer_bytes`.
Side RawSide(const std::string& name, const std::string& target, const std::string& method,
             std::vector<grpc::ByteBuffer> requests, size_t answer_bytes) {
  const auto client = std::make_shared<RawClient>(target);
  return {name, Timed([client, method, requests = std::move(requests), answer_bytes,
                       next = size_t{0}]() mutable {
            const grpc::ByteBuffer answer =
                client->Call(method, requests[next++ % requests.size()]);
            if (answer.Length() < answer_bytes) Die(method + ": the answer is too short");
          })};
}

std::vector<Side> RawSides(const Servers& servers, const std::string& method,
                           const std::vector<grpc::ByteBuffer>& requests, size_t answer_bytes) {
  return {RawSide("ours", servers.ours, method, requests, answer_bytes),
          RawSide("plain sync handler", servers.plain_sync, method, requests, answer_bytes),
          RawSide("plain callback handler", servers.plain_callback, method, requests, answer_bytes),
          RawSide("raw echo", servers.echo, method, requests, answer_bytes)};
}

template <typename MakeWork>
std::vector<Side> ProtobufSides(const Servers& servers, MakeWork make_work) {
  const char* const names[] = {"ours", "plain sync handler", "plain callback handler"};
  std::vector<Side> sides;
  for (const std::string& target : Caches(servers)) {
    sides.push_back(
        {names[sides.size()], Timed(make_work(std::make_shared<ProtobufClient>(target)))});
  }
  return sides;
}

}  // namespace

void GetMebibyte(const Context& context) {
  for (const std::string& target : Caches(context.servers)) FillAndVerify(target);
  std::vector<grpc::ByteBuffer> requests;
  for (size_t i = 0; i < kKeys; ++i) requests.push_back(ToBuffer(MakeGet(BlockKey(i))));
  const auto measured = Measured::Take(RawSides(context.servers, "Get", requests, kLargeBytes),
                                       Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("grpc_get_1m/plain", {1, 2}, Target::AtLeast(1.1)));
  context.rows.Print(measured.Compare("grpc_get_1m/echo", {3}, Target::AtLeast(0.9)));
}

void PutMebibyte(const Context& context) {
  std::vector<grpc::ByteBuffer> requests;
  for (size_t i = 0; i < kKeys; ++i) requests.push_back(ToBuffer(MakePut(BlockKey(i), Value(i))));
  const auto measured =
      Measured::Take(RawSides(context.servers, "Put", requests, 0), Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("grpc_put_1m/plain", {1, 2}, Target::AtLeast(1)));
  context.rows.Print(measured.Compare("grpc_put_1m/echo", {3}, std::nullopt));
  for (const std::string& target : Caches(context.servers)) FillAndVerify(target);
}

void GetMebibyteProtobuf(const Context& context) {
  for (const std::string& target : Caches(context.servers)) FillAndVerify(target);
  const auto sides = ProtobufSides(context.servers, [](std::shared_ptr<ProtobufClient> client) {
    return [client, next = uint64_t{0}]() mutable {
      const v1::GetResponse response = client->Get(MakeGet(BlockKey(next++ % kKeys)));
      if (response.results(0).value().size() != kLargeBytes) Die("Get: a value is missing");
    };
  });
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("grpc_get_1m_protobuf/plain", {1, 2}, Target::AtLeast(1)));
}

void PutMebibyteProtobuf(const Context& context) {
  const auto sides = ProtobufSides(context.servers, [](std::shared_ptr<ProtobufClient> client) {
    return [client, request = MakePut("", Value(0)), next = uint64_t{0}]() mutable {
      request.mutable_items(0)->set_key(BlockKey(next++ % kKeys));
      client->Put(request);
    };
  });
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("grpc_put_1m_protobuf/plain", {1, 2}, Target::AtLeast(1)));
}

}  // namespace infercache::bench
