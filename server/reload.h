// What SIGHUP does: the configuration is read again, and what can change without a restart changes.

#pragma once

#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/command_line.h"
#include "server/config.h"
#include "server/rpc/rpc_server.h"

namespace infercache::server {

class Reloader {
 public:
  // `config` is what the daemon was started with.
  Reloader(CommandLine command_line, Config config)
      : command_line_(std::move(command_line)), in_effect_(std::move(config)) {}
  Reloader(const Reloader&) = delete;
  Reloader& operator=(const Reloader&) = delete;

  // Who gets the credentials; null = nobody. `rpc` outlives its time here. Thread-safe.
  void SetServer(rpc::RpcServer* rpc) ABSL_LOCKS_EXCLUDED(mu_);

  // Applies the log level and the credentials, names in the log what needs a restart, and refuses a
  // file with an error as a whole. One call at a time.
  void Reload() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // False if nobody is there to get them.
  absl::StatusOr<bool> SetCredentials(std::vector<rpc::Credential> credentials)
      ABSL_LOCKS_EXCLUDED(mu_);

  const CommandLine command_line_;
  Config in_effect_;  // only of Reload
  Mutex mu_;
  rpc::RpcServer* rpc_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace infercache::server
