#include <cstdio>
#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/context.h"
#include "client/cli/exit_code.h"
#include "client/cli/gpu_self_test.h"
#include "client/cli/output.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

void PrintError(const std::string& command, const absl::Status& status, bool json) {
  if (json) {
    const Json error = {{"command", command},
                        {"code", absl::StatusCodeToString(status.code())},
                        {"message", std::string(status.message())}};
    std::fputs(JsonLine({{"error", error}}).c_str(), stderr);
  } else {
    std::fputs(absl::StrCat("infercachectl ", command, ": ", status.message(), " (",
                            absl::StatusCodeToString(status.code()), ")\n")
                   .c_str(),
               stderr);
  }
}

// "namespace create" of the command that was given.
std::string CommandName(const CLI::App& app) {
  std::string name;
  for (const CLI::App* level = &app; !level->get_subcommands().empty();) {
    level = level->get_subcommands().front();
    absl::StrAppend(&name, name.empty() ? "" : " ", level->get_name());
  }
  return name;
}

ExitCode Main(int argc, char** argv) {
  // gRPC locks with Abseil's mutexes; Debian's Abseil checks the order of every lock unless told
  // not to. A process-wide setting, so not for the client library to make.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  GlobalOptions options;
  CLI::App app;
  CommandLine line{app, {}};
  BuildProgram(line, options, INFERCACHE_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version end with 0 here, whatever was wrong with the arguments with another number.
    return app.exit(error) == 0 ? ExitCode::kOk : ExitCode::kUsage;
  }

  const Context context(options);
  auto result = line.selected(context);
  if (result.ok() && !FlushOutput()) {
    result = absl::DataLossError("standard output could not be written");
  }
  if (result.ok()) return *result;
  PrintError(CommandName(app), result.status(), context.json());
  return ExitCodeOf(result.status());
}

}  // namespace
}  // namespace infercache::cli

int main(int argc, char** argv) {
  // What doctor runs as a child is no command of its users'.
  if (argc > 1 && std::string_view(argv[1]) == infercache::cli::kGpuSelfTestChild) {
    return infercache::cli::RunGpuSelfTestChild({argv + 2, argv + argc});
  }
  return static_cast<int>(infercache::cli::Main(argc, argv));
}
