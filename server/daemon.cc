#include "server/daemon.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/limits.h"
#include "common/unix_socket.h"
#include "server/config_values.h"
#include "server/exit_codes.h"
#include "server/options.h"
#include "server/rpc/address.h"
#include "server/socket_admins.h"
#include "server/store_options.h"
#include "server/text.h"
#include "server/version.h"

namespace infercache::server {
namespace {

// Beyond the drain's; memory of terabytes takes its time to be given back.
constexpr std::chrono::seconds kTakeDownTimeout{30};

int Fail(ExitCode code, const absl::Status& status) {
  Log(spdlog::level::err, Cat(status.message()), {{"exit_code", Cat(static_cast<int>(code))}});
  return code;
}

void LogLocal(local::LocalOptions::Severity severity, std::string_view message) {
  using Severity = local::LocalOptions::Severity;
  Log(severity == Severity::kDebug  ? spdlog::level::debug
      : severity == Severity::kInfo ? spdlog::level::info
                                    : spdlog::level::warn,
      std::string(message));
}

}  // namespace

Daemon::Daemon(CommandLine command_line, LoadedConfig loaded)
    : config_(std::move(loaded.config)),
      warnings_(std::move(loaded.warnings)),
      logging_(config_.log_level, config_.log_format),
      metrics_(rpc::MethodNames()),
      reloader_(std::move(command_line), config_),
      signals_({.stop = [this](int signal) { lifecycle_.RequestStop(strsignal(signal)); },
                .stop_again =
                    [this](int signal) {
                      // Whoever sent it does not want to wait for anything.
                      ExitNow("second signal: exiting at once", 128 + signal);
                    },
                .reload = [this] { reloader_.Reload(); },
                .is_well = [this] { return IsWell(); }}) {}

Daemon::~Daemon() { TakeDown(); }

int Daemon::Run() {
  for (const std::string& warning : warnings_) Log(spdlog::level::warn, warning);
  // In this order: what is cheap and likely to be refused comes before gigabytes of arena.
  for (const auto step :
       {&Daemon::PrepareAddresses, &Daemon::StartHttp, &Daemon::StartStore, &Daemon::StartDevices,
        &Daemon::StartRpc, &Daemon::StartLocal, &Daemon::BeReady, &Daemon::WriteFiles}) {
    if (lifecycle_.stopping()) break;
    if (const int code = (this->*step)(); code != kExitOk) return code;
  }
  Announce();
  const std::string why = lifecycle_.WaitForStop();
  Drain(why);
  return kExitOk;
}

void Daemon::TakeDown() {
  reloader_.SetServer(nullptr);
  metrics_.SetLocalLane({});
  metrics_.SetRpcStats(nullptr);
  metrics_.SetStore(nullptr);
  device_tiers_.reset();  // before sessions end, see Drain
  // Each calls the other until it is shut down.
  if (local_ != nullptr) local_->Shutdown(absl::Now());
  if (rpc_ != nullptr) rpc_->Shutdown(absl::Now());
  local_.reset();
  rpc_.reset();
  store_.reset();
  http_.reset();
}

bool Daemon::IsWell() {
  signals_heartbeat_->Beat();
  if (lifecycle_.Overdue(std::chrono::steady_clock::now())) {
    ExitNow("not stopped in time: exiting at once", kExitRuntime);
  }
  std::vector<std::string> silent = heartbeats_.Silent(kLongestSilence);
  if (silent != silent_) {
    for (const std::string& name : silent) {
      Log(spdlog::level::err, "a thread shows no sign of life", {{"thread", name}});
    }
    if (silent.empty()) Log(spdlog::level::info, "all threads show signs of life again");
    silent_ = std::move(silent);
  }
  // Parts that are taken down beat no more.
  return silent_.empty() || lifecycle_.stopping();
}

int Daemon::PrepareAddresses() {
  umask(0077);
  const std::string files = RaiseFileLimit(FilesNeeded(config_));
  if (!files.empty()) Log(spdlog::level::warn, files);
  SocketChoice socket = ChooseSocket(config_.socket, geteuid(), std::getenv("XDG_RUNTIME_DIR"));
  if (!socket.warning.empty()) Log(spdlog::level::warn, socket.warning);
  socket_path_ = std::move(socket.path);
  auto options = MakeRpcOptions(config_);
  if (!options.ok()) return Fail(kExitConfig, options.status());
  rpc_options_ = *std::move(options);
  if (rpc_options_.listen.empty() && socket_path_.empty()) {
    return Fail(kExitConfig, absl::FailedPreconditionError(
                                 "no gRPC address and no Unix socket: nobody could connect"));
  }
  return CheckAddressesAreFree();
}

// A second daemon shall fail before it takes memory from the first.
int Daemon::CheckAddressesAreFree() {
  for (const std::string& text : rpc_options_.listen) {
    const auto address = rpc::ParseAddress(text);
    if (!address.ok()) return Fail(kExitConfig, address.status());
    const auto listening = rpc::Listen(*address);
    if (!listening.ok()) return Fail(kExitUnavailable, listening.status());
  }
  if (socket_path_.empty()) return kExitOk;
  const auto listening = ListenOnUnixSocket(socket_path_, /*mode=*/0600, /*backlog=*/1);
  if (listening.ok()) return kExitOk;
  const bool config = absl::IsInvalidArgument(listening.status());
  return Fail(config ? kExitConfig : kExitUnavailable, listening.status());
}

int Daemon::StartHttp() {
  if (config_.http_listen.empty()) return kExitOk;
  auto http = HttpServer::Start(config_.http_listen, Endpoints(metrics_, lifecycle_, heartbeats_));
  if (!http.ok()) return Fail(kExitUnavailable, http.status());
  http_ = *std::move(http);
  return kExitOk;
}

int Daemon::StartStore() {
  store::StoreOptions options = MakeStoreOptions(config_);
  // Hundreds of GiB take longer than a stop may.
  options.populating.stopping = [this] { return lifecycle_.stopping(); };
  options.on_upkeep = [beat = heartbeats_.Add("upkeep")] { beat->Beat(); };
  store_ = std::make_unique<store::Store>(options, clock_, &metrics_);
  metrics_.SetStore(store_.get());
  for (const NamespaceConfig& ns : EffectiveNamespaces(config_)) {
    if (lifecycle_.stopping()) return kExitOk;
    const auto created = store_->CreateNamespace(MakeNamespaceSpec(ns));
    if (lifecycle_.stopping() && !created.ok()) return kExitOk;
    if (!created.ok()) {
      const bool memory = absl::IsResourceExhausted(created.status());
      return Fail(memory ? kExitOsError : kExitConfig,
                  absl::Status(created.status().code(), Cat(ns.origin, ": namespace \"", ns.name,
                                                            "\": ", created.status().message())));
    }
    const std::string pages = PageKindName((*created)->page_kind());
    Log(spdlog::level::info, "namespace created",
        {{"namespace", ns.name},
         {"quota", FormatSize(ns.quota_bytes)},
         {"grpc", ns.grpc},
         {"pages", pages}});
    if (config_.arena_pages == "auto" && (*created)->page_kind() == PageKind::k4k) {
      Log(spdlog::level::warn,
          "small pages: every process that maps the arena pays for its own page tables",
          {{"namespace", ns.name}, {"advice", "infercachectl doctor"}});
    }
  }
  return kExitOk;
}

// A tier that cannot be had is off: everything else works without it.
int Daemon::StartDevices() {
  gpu::TierOptions options;
  options.chunk_bytes = std::min(config_.chunk_bytes, kMaxDeviceChunkBytes);
  options.wait = [this](absl::Duration moment) {
    return !lifecycle_.WaitForStop(absl::ToChronoMilliseconds(moment));
  };
  options.stopping = [this] { return lifecycle_.stopping(); };
  options.demote = config_.device_demote;
  options.demotion.switched_off = [](const absl::Status& why) {
    Log(spdlog::level::warn, "demotion is off", {{"reason", Cat(why.message())}});
  };
  options.demotion.slow = [](const absl::Status& why) {
    Log(spdlog::level::warn, "demotion is slow: host memory is not registered",
        {{"reason", Cat(why.message())}});
  };
  device_tiers_ = std::make_unique<gpu::DeviceTiers>(std::move(options));
  for (const NamespaceConfig& ns : EffectiveNamespaces(config_)) {
    const auto devices = ParseDevices(ns.devices);
    if (!devices.ok()) return Fail(kExitConfig, devices.status());
    if (devices->empty()) continue;
    const auto made = store_->FindNamespace(ns.name);
    if (!made.ok()) return Fail(kExitRuntime, made.status());
    for (const DeviceConfig& device : *devices) {
      if (lifecycle_.stopping()) return kExitOk;
      const gpu::TierResult tier = device_tiers_->Add(
          *store_, {.ns = *made, .device = device.device, .bytes = device.bytes});
      if (tier.status.ok()) {
        Log(spdlog::level::info, "device tier created",
            {{"namespace", ns.name},
             {"device", tier.device},
             {"gpu", tier.name},
             {"size", FormatSize(tier.bytes)}});
      } else {
        Log(spdlog::level::warn, "device tier is off",
            {{"namespace", ns.name},
             {"device", tier.device},
             {"reason", Cat(tier.status.message())}});
      }
    }
  }
  return kExitOk;
}

int Daemon::StartRpc() {
  rpc::AdminHooks hooks;
  hooks.version = std::string(Version());
  hooks.revision = std::string(Revision());
  hooks.http_address = http_ != nullptr ? http_->address() : "";
  hooks.socket_path = socket_path_;
  hooks.arena_pages = config_.arena_pages;
  hooks.set_log_level = [](std::string_view level) { return SetLogLevel(level); };
  hooks.allow_virtual_clock = config_.allow_virtual_clock;
  hooks.request_drain = [this] { lifecycle_.RequestStop("Admin.Drain"); };
  if (!socket_path_.empty()) hooks.local = local_view_.lane();
  auto started = rpc::RpcServer::Start(rpc_options_, *store_, std::move(hooks), &metrics_);
  if (!started.ok()) {
    const bool address =
        absl::IsAlreadyExists(started.status()) || absl::IsFailedPrecondition(started.status());
    const bool config = absl::IsInvalidArgument(started.status());
    return Fail(address ? kExitUnavailable : config ? kExitConfig : kExitRuntime, started.status());
  }
  rpc_ = *std::move(started);
  reloader_.SetServer(rpc_.get());
  metrics_.SetRpcStats([rpc = rpc_.get()] { return rpc->stats(); });
  return kExitOk;
}

// After the gRPC server, which gets those of its connections that speak HTTP/2.
int Daemon::StartLocal() {
  if (socket_path_.empty()) return kExitOk;
  auto options = MakeLocalOptions(config_, socket_path_);
  if (!options.ok()) return Fail(kExitConfig, options.status());
  options->adopt_http2 = [this](UniqueFd socket) {
    const rpc::AdminRight right =
        MayAdminister(socket.get(), config_.auth_socket_admin_ids, geteuid())
            ? rpc::AdminRight::kAll
            : rpc::AdminRight::kNone;
    rpc_->Adopt(std::move(socket), right);
  };
  options->log = LogLocal;
  options->heartbeats = &heartbeats_;
  auto started = local::LocalServer::Start(*options, *store_);
  if (!started.ok()) {
    const bool config = absl::IsInvalidArgument(started.status());
    return Fail(config ? kExitConfig : kExitUnavailable, started.status());
  }
  local_ = *std::move(started);
  local_view_.Show(*local_);
  metrics_.SetLocalLane(local_view_.lane());
  return kExitOk;
}

// Before anything says so: who is told may ask /readyz next.
int Daemon::BeReady() {
  lifecycle_.SetServing();
  metrics_.SetReady(true);
  return kExitOk;
}

std::string Daemon::grpc_address() const {
  return rpc_ == nullptr || config_.grpc_listen.empty() ? "" : rpc_->addresses().front();
}
std::string Daemon::http_address() const { return http_ != nullptr ? http_->address() : ""; }

int Daemon::WriteFiles() {
  if (!config_.pid_file.empty()) {
    const absl::Status status = files_.Write(config_.pid_file, Cat(getpid(), "\n"));
    if (!status.ok()) return Fail(kExitOsError, status);
  }
  if (!config_.ready_file.empty()) {
    const nlohmann::ordered_json ready = {{"pid", getpid()},
                                          {"grpc", grpc_address()},
                                          {"http", http_address()},
                                          {"socket", socket_path_}};
    const absl::Status status = files_.Write(config_.ready_file, ready.dump() + "\n");
    if (!status.ok()) return Fail(kExitOsError, status);
  }
  return kExitOk;
}

// The end of start-up, in a form that a machine can read: the addresses are the bound ones.
void Daemon::Announce() {
  if (lifecycle_.stopping()) return;
  Log(spdlog::level::info, "ready",
      {{"grpc", grpc_address()},
       {"http", http_address()},
       {"socket", socket_path_},
       {"capacity", FormatSize(config_.capacity_bytes)},
       {"version", std::string(Version())},
       {"revision", std::string(Revision())},
       {"pid", Cat(getpid())}});
  sd_notify(0, Cat("READY=1\nSTATUS=serving on ", grpc_address(), " ", socket_path_).c_str());
}

void Daemon::Drain(const std::string& why) {
  metrics_.SetReady(false);
  sd_notify(0, "STOPPING=1\nSTATUS=draining");
  Log(spdlog::level::info, "draining",
      {{"reason", why}, {"timeout", FormatDurationMs(config_.drain_timeout_ms)}});
  const std::chrono::milliseconds timeout(config_.drain_timeout_ms);
  const absl::Time deadline = absl::Now() + absl::FromChrono(timeout);
  // What does not heed the deadline: a namespace that is being populated, a thread that hangs.
  lifecycle_.EndBy(std::chrono::steady_clock::now() + timeout + kTakeDownTimeout);
  if (rpc_ != nullptr) rpc_->BeginDrain();
  if (local_ != nullptr) {
    local_->BeginDrain();
    local_->StopListening(deadline);
  }
  // Sessions end after the last gRPC put and the last object that moves down, which could reuse
  // what they have pinned. Meanwhile they go on: neither's patience is at the other's expense.
  if (rpc_ != nullptr) rpc_->Shutdown(deadline);
  device_tiers_.reset();
  if (local_ != nullptr) local_->Shutdown(deadline);
  files_.RemoveAll();
  TakeDown();
  Log(spdlog::level::info, "stopped");
}

void Daemon::ExitNow(const char* why, int code) {
  LogNow(spdlog::level::warn, why);
  files_.RemoveAll();
  _exit(code);
}

}  // namespace infercache::server
