// What a round trip costs: one small value, and the presence of a long chain, over gRPC on the Unix
// socket beside memcached and Redis on theirs.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/block_key.h"
#include "bench/compare/cache_client.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"
#include "bench/compare/memcached_client.h"
#include "bench/compare/redis_client.h"

namespace infercache::bench {
namespace {

constexpr size_t kSmallBytes = 1024;
constexpr size_t kGrpcChain = 4096;

std::vector<std::string> BlockKeys(size_t count) {
  std::vector<std::string> keys;
  for (size_t i = 0; i < count; ++i) keys.push_back(BlockKey(i));
  return keys;
}

void FillAll(const Servers& servers, const std::vector<std::string>& keys) {
  const std::string value(kSmallBytes, 'v');
  v1::PutRequest request;
  MemcachedClient memcached(servers.memcached);
  RedisClient redis(servers.redis);
  for (const std::string& key : keys) {
    *request.add_items() = MakePut(key, value).items(0);
    memcached.Set(key, value);
    redis.Set(key, value);
  }
  ProtobufClient(servers.ours_unix).Put(request);
}

template <typename Client>
Side GetSide(const std::string& name, const std::string& socket, const std::string& key) {
  const auto client = std::make_shared<Client>(socket);
  return {name, Timed([client, name, key] {
            if (client->Get(key).size() != kSmallBytes) Die(name + ": a value of another size");
          })};
}

template <typename Client>
Side PresenceSide(const std::string& name, const std::string& socket,
                  const std::vector<std::string>& keys) {
  const auto client = std::make_shared<Client>(socket);
  return {name, Timed([client, name, request = Client::PresenceRequest(keys)] {
            if (client->CountPresent(request, kGrpcChain) != kGrpcChain)
              Die(name + ": keys are missing");
          })};
}

}  // namespace

void GetKibibyte(const Context& context) {
  const std::vector<std::string> keys = BlockKeys(1);
  FillAll(context.servers, keys);
  const auto client = std::make_shared<RawClient>(context.servers.ours_unix);
  const std::vector<Side> sides = {
      {"ours", Timed([client, request = ToBuffer(MakeGet(keys[0]))] {
         if (client->Call("Get", request).Length() < kSmallBytes) Die("Get: a value is missing");
       })},
      GetSide<MemcachedClient>("memcached", context.servers.memcached, keys[0]),
      GetSide<RedisClient>("redis", context.servers.redis, keys[0])};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  context.rows.Print(measured.Compare("grpc_get_1k/memcached", {1}, std::nullopt));
  context.rows.Print(measured.Compare("grpc_get_1k/redis", {2}, std::nullopt));
}

void MatchChain(const Context& context) {
  const std::vector<std::string> keys = BlockKeys(kGrpcChain);
  FillAll(context.servers, keys);
  v1::MatchRequest match;
  for (const std::string& key : keys) match.add_keys(key);
  const auto client = std::make_shared<RawClient>(context.servers.ours_unix);
  const std::vector<Side> sides = {
      {"ours", Timed([client, request = ToBuffer(match)] {
         v1::MatchResponse response;
         Parse(client->Call("Match", request), &response);
         if (response.prefix_length() != kGrpcChain) Die("Match: keys are missing");
       })},
      PresenceSide<MemcachedClient>("memcached mg", context.servers.memcached, keys),
      PresenceSide<RedisClient>("redis EXISTS", context.servers.redis, keys)};
  const auto measured = Measured::Take(sides, Statistic::kMean, context.plan);
  // Of a key.
  context.rows.Print(measured.Compare("grpc_match_4096/memcached", {1}, std::nullopt, kGrpcChain));
  context.rows.Print(measured.Compare("grpc_match_4096/redis", {2}, std::nullopt, kGrpcChain));
}

}  // namespace infercache::bench
