// From what a user says to one checked Config: flags over environment over YAML file over defaults.

#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/config_file.h"

namespace infercache::server {

enum class Action { kRun, kHelp, kVersion, kCheckConfig, kPrintConfig };

struct CommandLine {
  Action action = Action::kRun;
  std::string config_file;                   // empty = none
  std::map<std::string, std::string> flags;  // by key, as given; each value parses
};

// INVALID_ARGUMENT: an unknown flag (with the nearest one), a missing or malformed value, or a
// positional argument. These are usage errors (kExitUsage).
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

struct LoadedConfig {
  Config config;
  Origins origins;
  std::string config_file;            // that was read; empty = none
  std::vector<std::string> warnings;  // what is likely not what was meant
};

// `environment` is environ or null. Reads --config, or the file that INFERCACHE_CONFIG names, and
// the token files it mentions. INVALID_ARGUMENT lists every error, one a line, each naming file and
// line, variable or flag; these are configuration errors (kExitConfig).
absl::StatusOr<LoadedConfig> LoadConfig(const CommandLine& command_line,
                                        const char* const* environment);

}  // namespace infercache::server
