#include "server/reload.h"

#include <unistd.h>

#include <string>
#include <utility>

#include "common/status_macros.h"
#include "server/logging.h"
#include "server/options.h"
#include "server/rpc_options.h"
#include "server/text.h"

namespace infercache::server {
namespace {

void NameWhatNeedsARestart(const Config& loaded, const Config& in_effect) {
  const auto name = [](std::string_view key) {
    Log(spdlog::level::warn, "a changed option needs a restart", {{"key", std::string(key)}});
  };
  for (const Field<Config>& field : ConfigFields()) {
    if (field.key == "log.level") continue;
    if (ValueText(field, loaded) != ValueText(field, in_effect)) name(field.key);
  }
  if (!SameNamespaces(loaded, in_effect)) name("namespaces");
}

}  // namespace

void Reloader::SetServer(rpc::RpcServer* rpc) {
  MutexLock lock(&mu_);
  rpc_ = rpc;
}

absl::StatusOr<bool> Reloader::SetCredentials(std::vector<rpc::Credential> credentials) {
  MutexLock lock(&mu_);
  if (rpc_ == nullptr) return false;
  RETURN_IF_ERROR(rpc_->SetCredentials(std::move(credentials)));
  return true;
}

void Reloader::Reload() {
  const auto refuse = [](const absl::Status& why) {
    Log(spdlog::level::err, Cat("reload refused: ", why.message()));
  };
  auto loaded = LoadConfig(command_line_, environ);
  if (!loaded.ok()) return refuse(loaded.status());
  // Reads the key material as well, which is watched and not reloaded here: who has just renewed it
  // learns whether it can be used.
  auto options = MakeRpcOptions(loaded->config);
  if (!options.ok()) return refuse(options.status());

  NameWhatNeedsARestart(loaded->config, in_effect_);
  std::string credentials = "unchanged";
  if (!SameCredentials(loaded->config, in_effect_)) {
    const auto set = SetCredentials(std::move(options->credentials));
    if (!set.ok()) return refuse(set.status());
    if (*set) in_effect_.credentials = loaded->config.credentials;
    credentials = *set ? "changed" : "not served yet: reload again once it is ready";
  }
  const auto before = SetLogLevel(loaded->config.log_level);
  Log(spdlog::level::info, "reloaded",
      {{"level_before", before.value_or("")},
       {"level", loaded->config.log_level},
       {"credentials", credentials}});
}

}  // namespace infercache::server
