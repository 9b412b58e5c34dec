#include "server/command_line.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "common/status_macros.h"
#include "server/config_values.h"
#include "server/local_peers.h"
#include "server/options.h"
#include "server/text.h"

namespace infercache::server {
namespace {

constexpr std::string_view kConfigVariable = "INFERCACHE_CONFIG";

// The parser and what it fills. CLI11 sees texts only: its own reading of files and environment
// puts files first, and its value parsers would not be shared with the YAML reader.
struct Parser {
  Parser() {
    app.set_help_flag("");
    app.add_flag("-h,--help", help);
    app.add_flag("--version", version);
    app.add_flag("--check-config", check_config);
    app.add_flag("--print-config", print_config);
    app.add_option("--config", config_file)->take_last();
    for (const Field<Config>& field : ConfigFields()) {
      std::string& text = texts[std::string(field.key)];
      if (field.kind == ValueKind::kBool) {
        app.add_flag(FlagName(field.key), text)->take_last();  // alone = true; or --flag=false
      } else {
        app.add_option(FlagName(field.key), text)->take_last();
      }
    }
  }
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;

  CLI::App app;
  bool help = false, version = false, check_config = false, print_config = false;
  std::string config_file;
  std::map<std::string, std::string> texts;  // by key
};

std::string WithNearestFlag(std::string message, const std::vector<std::string>& arguments) {
  std::vector<std::string> flags = {"--help", "--version", "--config", "--check-config",
                                    "--print-config"};
  for (const auto& field : ConfigFields()) flags.push_back(FlagName(field.key));
  for (const std::string& argument : arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    const std::string_view nearest = NearestName(name, flags);
    if (name.starts_with("--") && !nearest.empty()) {
      Append(message, "; did you mean ", nearest, "?");
      break;
    }
  }
  return message;
}

void ApplyEnvironment(const char* const* environment, LoadedConfig& loaded,
                      std::vector<std::string>& errors) {
  std::vector<std::string> known = {std::string(kConfigVariable)};
  for (const auto& field : ConfigFields()) known.push_back(EnvironmentName(field.key));

  for (const char* const* p = environment; p != nullptr && *p != nullptr; ++p) {
    const std::string_view variable = *p;
    const size_t equals = variable.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = variable.substr(0, equals);
    const std::string_view value = variable.substr(equals + 1);
    if (!name.starts_with("INFERCACHE_") || name == kConfigVariable) continue;
    bool found = false;
    for (const Field<Config>& field : ConfigFields()) {
      if (EnvironmentName(field.key) != name) continue;
      found = true;
      const absl::Status status = SetValue(field, value, loaded.config);
      if (!status.ok()) errors.push_back(Cat(name, ": ", status.message()));
      loaded.origins[std::string(field.key)] = std::string(name);
    }
    // Not an error: clients have variables of their own, and Kubernetes adds some for each service.
    const std::string_view nearest = found ? "" : NearestName(name, known);
    if (!nearest.empty() && EditDistance(name, nearest) <= 2) {
      loaded.warnings.push_back(
          Cat("the environment variable ", name, " is not known; did you mean ", nearest, "?"));
    }
  }
}

std::string FileFromEnvironment(const char* const* environment) {
  const std::string prefix = Cat(kConfigVariable, "=");
  for (const char* const* p = environment; p != nullptr && *p != nullptr; ++p) {
    const std::string_view variable = *p;
    if (variable.starts_with(prefix)) return std::string(variable.substr(prefix.size()));
  }
  return "";
}

void ReadTokenFiles(Config& config, std::vector<std::string>& errors) {
  for (CredentialConfig& c : config.credentials) {
    if (c.token_file.empty()) continue;
    if (!c.token.empty()) {
      errors.push_back(
          Cat(c.origin, ": auth.credentials: \"", c.name, "\" has both a token and a token_file"));
      continue;
    }
    auto content = ReadSmallFile(c.token_file);
    if (!content.ok()) {
      errors.push_back(Cat(c.origin, ": auth.credentials: ", content.status().message()));
      continue;
    }
    c.token = std::string(Trim(*content));
    if (c.token.empty()) {
      errors.push_back(Cat(c.origin, ": auth.credentials: ", c.token_file, " is empty"));
    }
  }
}

void LookUpPeers(Config& config, std::vector<std::string>& errors) {
  const auto look_up = [&errors](const NamespaceConfig& ns, std::string_view key,
                                 const std::vector<std::string>& texts, LocalPeers& ids) {
    auto peers = ResolvePeers(texts);
    if (peers.ok()) {
      ids = *std::move(peers);
    } else {
      errors.push_back(Cat(ns.origin, ": namespaces: \"", Escaped(ns.name), "\": ", key, ": ",
                           peers.status().message()));
    }
  };
  for (NamespaceConfig& ns : config.namespaces) {
    look_up(ns, "local_users", ns.local_users, ns.local_user_ids);
    look_up(ns, "local_writers", ns.local_writers, ns.local_writer_ids);
  }

  std::vector<std::string> admins;
  if (!config.auth_socket_admins.empty()) {
    ForEachPiece(config.auth_socket_admins, ',',
                 [&admins](std::string_view piece) { admins.emplace_back(Trim(piece)); });
  }
  auto peers = ResolvePeers(admins);
  if (peers.ok()) {
    config.auth_socket_admin_ids = *std::move(peers);
  } else {
    errors.push_back(Cat("auth.socket_admins: ", peers.status().message()));
  }
}

absl::Status AsStatus(const std::vector<std::string>& errors) {
  return errors.empty() ? absl::OkStatus() : absl::InvalidArgumentError(Join(errors, "\n"));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  // "--socket=" as "--socket" "": CLI11 takes the first form for a missing value.
  std::vector<std::string> texts;
  for (int i = 0; i < argc; ++i) {
    const std::string_view text = argv[i];
    const bool empty_value = text.starts_with("--") && text.find('=') == text.size() - 1;
    texts.emplace_back(empty_value ? text.substr(0, text.size() - 1) : text);
    if (empty_value) texts.emplace_back();
  }
  std::vector<const char*> arguments;
  for (const std::string& text : texts) arguments.push_back(text.c_str());

  Parser parser;
  // CLI11 reports by throwing; this is where that ends.
  try {
    parser.app.parse(static_cast<int>(arguments.size()), arguments.data());
  } catch (const CLI::ExtrasError& e) {
    return absl::InvalidArgumentError(WithNearestFlag(e.what(), parser.app.remaining()));
  } catch (const CLI::ParseError& e) {
    return absl::InvalidArgumentError(e.what());
  }

  CommandLine result;
  result.action = parser.help           ? Action::kHelp
                  : parser.version      ? Action::kVersion
                  : parser.check_config ? Action::kCheckConfig
                  : parser.print_config ? Action::kPrintConfig
                                        : Action::kRun;
  result.config_file = parser.config_file;
  Config scratch;
  for (const Field<Config>& field : ConfigFields()) {
    const std::string flag = FlagName(field.key);
    if (parser.app.count(flag) == 0) continue;
    const std::string& text = parser.texts[std::string(field.key)];
    const absl::Status status = SetValue(field, text, scratch);
    if (!status.ok()) {
      return absl::InvalidArgumentError(Cat(flag, ": ", status.message()));
    }
    result.flags[std::string(field.key)] = text;
  }
  return result;
}

absl::StatusOr<LoadedConfig> LoadConfig(const CommandLine& command_line,
                                        const char* const* environment) {
  LoadedConfig loaded;
  loaded.config_file = command_line.config_file.empty() ? FileFromEnvironment(environment)
                                                        : command_line.config_file;
  if (!loaded.config_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(loaded.config_file));
    RETURN_IF_ERROR(ApplyYaml(text, loaded.config_file, loaded.config, loaded.origins));
  }
  std::vector<std::string> errors;
  ApplyEnvironment(environment, loaded, errors);
  for (const Field<Config>& field : ConfigFields()) {
    const auto flag = command_line.flags.find(std::string(field.key));
    if (flag == command_line.flags.end()) continue;
    RETURN_IF_ERROR(SetValue(field, flag->second, loaded.config));
    loaded.origins[flag->first] = FlagName(field.key);
  }
  ReadTokenFiles(loaded.config, errors);
  LookUpPeers(loaded.config, errors);
  RETURN_IF_ERROR(AsStatus(errors));

  for (const ConfigProblem& problem : CheckConfig(loaded.config)) {
    const auto origin = loaded.origins.find(problem.key);
    errors.push_back(Cat(origin == loaded.origins.end() ? "" : Cat(origin->second, ": "),
                         problem.key, " ", problem.text));
  }
  RETURN_IF_ERROR(AsStatus(errors));
  for (std::string& warning : ConfigWarnings(loaded.config)) {
    loaded.warnings.push_back(std::move(warning));
  }
  return loaded;
}

}  // namespace infercache::server
