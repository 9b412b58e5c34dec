// doctor: everything that can be wrong between this machine and its daemon, with what to do.

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/doctor_daemon.h"
#include "client/cli/doctor_finding.h"
#include "client/cli/doctor_gpu.h"
#include "client/cli/doctor_kernel.h"
#include "client/cli/doctor_local.h"
#include "client/cli/doctor_machine.h"
#include "client/cli/latency.h"
#include "client/src/channel.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

// For each GPU. To make a context takes a driver seconds, and four are made.
constexpr absl::Duration kGpuPatience = absl::Seconds(30);

void Append(std::vector<Finding>& findings, std::vector<Finding> more) {
  std::move(more.begin(), more.end(), std::back_inserter(findings));
}

const char* LevelName(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kWarn:
      return "warn";
    case Level::kFail:
      return "fail";
  }
  return "";
}

Level Worst(const std::vector<Finding>& findings) {
  Level worst = Level::kOk;
  for (const Finding& finding : findings) worst = std::max(worst, finding.level);
  return worst;
}

std::string FindingsJson(const std::string& endpoint, const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"check", finding.check},
                    {"level", LevelName(finding.level)},
                    {"found", finding.found},
                    {"advice", finding.advice}});
  }
  return JsonLine({{"endpoint", endpoint},
                   {"level", LevelName(Worst(findings))},
                   {"findings", std::move(list)}});
}

std::string FindingsTable(const std::vector<Finding>& findings) {
  Table table({{"LEVEL", Table::Align::kLeft},
               {"CHECK", Table::Align::kLeft},
               {"FOUND", Table::Align::kLeft}});
  for (const Finding& finding : findings) {
    table.AddRow({LevelName(finding.level), finding.check, finding.found});
    if (!finding.advice.empty()) table.AddRow({"", "", absl::StrCat("-> ", finding.advice)});
  }
  return table.Text();
}

v1::Hello MakeHello(const ClientOptions& options) {
  v1::Hello hello;
  hello.set_version(1);
  hello.set_client("infercachectl doctor");
  hello.mutable_scope()->set_namespace_(options.namespace_name);
  for (const auto& [key, value] : options.fingerprint) {
    auto* entry = hello.mutable_scope()->add_fingerprint();
    entry->set_key(key);
    entry->set_value(value);
  }
  return hello;
}

Finding CheckLocalLane(const ClientOptions& options, const v1::GetInfoResponse& info) {
  return LocalLaneFinding(info.socket_path(), options.namespace_name,
                          SayHello(info.socket_path(), MakeHello(options), options.deadline));
}

Finding CheckTier(const ClientOptions& options, const v1::GetInfoResponse& info,
                  const std::string& device) {
  v1::Hello hello = MakeHello(options);
  hello.set_device(device);
  return GpuTierFinding(device, options.namespace_name,
                        SayHello(info.socket_path(), hello, options.deadline));
}

absl::StatusOr<ExitCode> Doctor(const Context& context, const std::string& version) {
  ASSIGN_OR_RETURN(const ClientOptions options, context.MakeClientOptions());
  ASSIGN_OR_RETURN(const Endpoint resolved, ResolveEndpoint(options.endpoint));
  ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(options));
  const AskedEndpoint endpoint{.text = resolved.text, .local = resolved.local};

  const uint64_t start_ns = NowNs();
  const auto info = admin->GetInfo();
  const auto took = absl::Nanoseconds(NowNs() - start_ns);
  std::vector<Finding> findings = {EndpointFinding(endpoint, info, took)};

  const Machine machine;
  Subject subject;
  if (info.ok()) {
    Append(findings, CheckLanes(endpoint, *info, [&options](const std::string& address) {
             return DialAddress(address, options.deadline);
           }));
    findings.push_back(CheckVersion(version, *info));
    if (endpoint.local) {
      if (!info->socket_path().empty()) findings.push_back(CheckLocalLane(options, *info));
      // Who may ask for the one may ask for the other.
      const v1::GetStatsResponse stats = admin->GetStats("").value_or(v1::GetStatsResponse());
      if (stats.namespaces_size() > 0) findings.push_back(ArenaPagesFinding(stats));
      subject = DescribeSubject(machine, *info, stats);
    }
  }
  const bool asks_for_tiers = info.ok() && endpoint.local && !info->socket_path().empty();
  for (const Gpu& gpu : CheckGpus(context.deadline(kGpuPatience), &findings)) {
    if (asks_for_tiers) findings.push_back(CheckTier(options, *info, gpu.uuid));
  }
  Append(findings, CheckKernel());
  findings.push_back(PeerPidfdFinding(TryPeerPidfd()));
  Append(findings, CheckMachine(machine, subject));

  Print(context.json() ? FindingsJson(endpoint.text, findings) : FindingsTable(findings));
  if (!info.ok() && IsUnreachable(info.status())) return ExitCode::kUnreachable;
  return Worst(findings) == Level::kFail ? ExitCode::kFailed : ExitCode::kOk;
}

}  // namespace

void AddDoctorCommand(CommandLine& line, const std::string& version) {
  line.app
      .add_subcommand("doctor",
                      "Look for what is wrong between this machine and the daemon, and say what to "
                      "do about it")
      ->callback([&line, version] {
        line.selected = [version](const Context& context) { return Doctor(context, version); };
      });
}

}  // namespace infercache::cli
