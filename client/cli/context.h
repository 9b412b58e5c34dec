// What every command works with: the global options, and the connections made from them when a
// command first asks. One command, one thread; the clients themselves are thread-safe.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "client/src/admin_client.h"
#include "infercache/client.h"

namespace infercache::cli {

// As given, before files are read.
struct GlobalOptions {
  std::string endpoint;
  std::string namespace_name;  // empty = not given
  std::vector<std::string> fingerprint;
  std::string token_file;
  bool tls = false;
  std::string tls_ca_file, tls_certificate_file, tls_key_file;
  absl::Duration deadline = absl::ZeroDuration();  // zero = the command's default
  OutputFormat format = OutputFormat::kTable;
};

class Context {
 public:
  explicit Context(const GlobalOptions& options) : options_(options) {}

  bool json() const { return options_.format == OutputFormat::kJson; }
  // Empty if the user named none.
  const std::string& given_namespace() const { return options_.namespace_name; }
  // What the user gave, or `fallback`.
  absl::Duration deadline(absl::Duration fallback) const {
    return options_.deadline > absl::ZeroDuration() ? options_.deadline : fallback;
  }
  // The options of a client of this command: files read, deadline `fallback` unless the user gave
  // one. INVALID_ARGUMENT names the option that makes no sense.
  absl::StatusOr<ClientOptions> MakeClientOptions(absl::Duration fallback = absl::Seconds(5)) const;
  // Connect() does not wait for the daemon: errors here are wrong options.
  absl::StatusOr<std::unique_ptr<Client>> ConnectClient(
      absl::Duration fallback = absl::Seconds(5)) const;
  absl::StatusOr<std::unique_ptr<AdminClient>> ConnectAdmin() const;

 private:
  const GlobalOptions& options_;
};

// The memory that the daemon populates for a namespace, before rounding. At most UINT64_MAX.
uint64_t NeededBytes(const v1::NamespaceSpec& spec);
// How long that may take: the daemon touches every page before it answers.
absl::Duration CreationDeadline(uint64_t bytes);

// "key=value" texts. INVALID_ARGUMENT names `option`.
absl::StatusOr<FingerprintEntries> ParseEntries(std::string_view option,
                                                const std::vector<std::string>& texts);

// A command returns how it ended, or the error that main() reports.
using Command = std::function<absl::StatusOr<ExitCode>(const Context&)>;

// The command line under construction. Each Add...Commands registers the commands of its file:
// their options, and a callback that sets `selected`.
struct CommandLine {
  CLI::App& app;
  Command selected;
};

// Name, help, options and commands of the whole program. `options` outlives the command line.
void BuildProgram(CommandLine& line, GlobalOptions& options, const std::string& version);

void AddGlobalOptions(CLI::App& app, GlobalOptions& options);
void AddDaemonCommands(CommandLine& line);  // ping info stat flush drain log-level
void AddDoctorCommand(CommandLine& line, const std::string& version);
void AddObjectCommands(CommandLine& line);     // get put
void AddKeyCommands(CommandLine& line);        // delete exists list match
void AddNamespaceCommands(CommandLine& line);  // namespace list|create|delete
void AddReplayCommand(CommandLine& line);
void AddBenchCommand(CommandLine& line);
void AddSimulateCommand(CommandLine& line);

// --trace FILE, required.
void AddTraceOption(CLI::App& app, std::string& file);

// Option whose text `parse` (StatusOr<T> of string_view) turns into `target`; its message is the
// usage error.
template <typename T, typename Parse>
CLI::Option* AddParsedOption(CLI::App& app, const std::string& name, T& target, Parse parse,
                             const std::string& type, const std::string& help) {
  const auto store = [&target, parse](const std::string& text) -> std::string {
    auto value = parse(text);
    if (!value.ok()) return std::string(value.status().message());
    target = *std::move(value);
    return {};
  };
  return app
      .add_option(
          name, [](const CLI::results_t&) { return true; }, help)
      ->type_name(type)
      ->expected(1)
      ->check(store, "");
}

}  // namespace infercache::cli
