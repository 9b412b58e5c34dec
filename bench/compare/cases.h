// The cases of the comparison that talk to servers. Each measures and prints its rows; what each
// answers stands in bench/README.md.

#pragma once

#include <span>
#include <string>

#include "bench/compare/rounds.h"
#include "bench/compare/row.h"

namespace infercache::bench {

// Where the servers are. gRPC's as targets; memcached and Redis as paths of Unix sockets.
struct Servers {
  std::string ours;       // loopback
  std::string ours_unix;  // the same daemon over its Unix socket: gRPC and the same-host lane
  std::string plain_sync;
  std::string plain_callback;
  std::string echo;
  std::string memcached;
  std::string redis;
  std::string daemon_binary;       // to start one more
  std::string held_worker_binary;  // to kill
};

struct Context {
  const Servers& servers;
  const Plan& plan;
  RowPrinter& rows;
};

void GetMebibyte(const Context& context);
void PutMebibyte(const Context& context);
void GetMebibyteProtobuf(const Context& context);
void PutMebibyteProtobuf(const Context& context);
void GetKibibyte(const Context& context);
void MatchChain(const Context& context);
void PutWhileEvicting(const Context& context);
void GetWhileOthersEvict(const Context& context);
void TimeToReady(const Context& context);
void LocalHitKibibyte(const Context& context);
void LocalViewMebibyte(const Context& context);
void LocalCopyMebibyte(const Context& context);
void LocalMatchChain(const Context& context);
void LocalPutMebibyte(const Context& context);
void LocalMixSynchronous(const Context& context);
void LocalMixPipelined(const Context& context);
void LocalPutWhileEvicting(const Context& context);
void LocalHitWhileOthersEvict(const Context& context);
void LocalFirstTouch(const Context& context);
void DaemonWhileClientsHit(const Context& context);
void LocalPutRoundTrips(const Context& context);
void WorkerKilled(const Context& context);

struct Case {
  const char* name;
  void (*run)(const Context& context);
};

inline constexpr Case kCases[] = {
    {"grpc_get_1m", GetMebibyte},
    {"grpc_put_1m", PutMebibyte},
    {"grpc_get_1m_protobuf", GetMebibyteProtobuf},
    {"grpc_put_1m_protobuf", PutMebibyteProtobuf},
    {"grpc_get_1k", GetKibibyte},
    {"grpc_match_4096", MatchChain},
    {"grpc_put_p99_evicting", PutWhileEvicting},
    {"grpc_get_p99_evicting", GetWhileOthersEvict},
    {"ready", TimeToReady},
    {"local_hit_1k", LocalHitKibibyte},
    {"local_view_1m", LocalViewMebibyte},
    {"local_copy_1m", LocalCopyMebibyte},
    {"local_match_4096", LocalMatchChain},
    {"local_put_1m", LocalPutMebibyte},
    {"local_mix_sync", LocalMixSynchronous},
    {"local_mix_16_puts", LocalMixPipelined},
    {"local_put_p99_evicting", LocalPutWhileEvicting},
    {"local_hit_p99_evicting", LocalHitWhileOthersEvict},
    {"local_first_touch", LocalFirstTouch},
    {"local_daemon_cpu", DaemonWhileClientsHit},
    {"local_put_round_trips", LocalPutRoundTrips},
    {"worker_killed", WorkerKilled},
};

}  // namespace infercache::bench
