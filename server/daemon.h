// infercached, started: builds every part by hand, in the order of its members, and takes them down
// in reverse, but for what moves objects down, which ends before sessions do.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/heartbeat.h"
#include "server/command_line.h"
#include "server/endpoints.h"
#include "server/gpu/device_tiers.h"
#include "server/http/http_server.h"
#include "server/lifecycle.h"
#include "server/local/local_server.h"
#include "server/local_options.h"
#include "server/logging.h"
#include "server/metrics.h"
#include "server/process.h"
#include "server/reload.h"
#include "server/rpc/rpc_server.h"
#include "server/rpc_options.h"
#include "server/signals.h"
#include "server/store/store.h"

namespace infercache::server {

// One in a process: it takes the process's signals.
class Daemon {
 public:
  Daemon(CommandLine command_line, LoadedConfig loaded);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Starts, serves until it is told to stop, drains, and returns an exit code.
  int Run();

 private:
  // What Run does one after the other. Each returns an exit code: kExitOk goes on.
  int PrepareAddresses();
  int CheckAddressesAreFree();
  int StartHttp();
  int StartStore();
  int StartDevices();
  int StartRpc();
  int StartLocal();
  int BeReady();
  int WriteFiles();

  void Announce();
  void Drain(const std::string& why);
  // Idempotent.
  void TakeDown();
  // On the signals' thread.
  bool IsWell();
  [[noreturn]] void ExitNow(const char* why, int code);

  std::string grpc_address() const;
  std::string http_address() const;

  const Config config_;
  const std::vector<std::string> warnings_;

  Logging logging_;
  ExitFiles files_;
  Lifecycle lifecycle_;
  Heartbeats heartbeats_;
  const std::shared_ptr<Heartbeat> signals_heartbeat_ = heartbeats_.Add("signals");
  std::vector<std::string> silent_;  // on the signals' thread
  Metrics metrics_;
  Reloader reloader_;
  SignalLoop signals_;
  MonotonicClock clock_;
  std::string socket_path_;
  rpc::RpcOptions rpc_options_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<gpu::DeviceTiers> device_tiers_;
  LocalView local_view_;
  std::unique_ptr<rpc::RpcServer> rpc_;
  std::unique_ptr<local::LocalServer> local_;
};

}  // namespace infercache::server
