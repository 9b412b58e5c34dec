// All of infercachectl's command line in one place: main() parses with it, and the man page and the
// shell completion are generated from it.

#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/exit_code.h"

namespace infercache::cli {
namespace {

constexpr char kDescription[] =
    "infercachectl asks, fills, operates and measures an infercached daemon.";

constexpr char kNotes[] =
    "Keys are escaped text, in arguments and in every output: printable UTF-8 stands for itself,\n"
    "a backslash is written \\\\, any other byte \\xNN. A key that starts with a dash comes after "
    "--.\n"
    "Options may stand before or after the command; `infercachectl COMMAND --help` has its own.\n"
    "\n"
    "Environment: INFERCACHE_ENDPOINT, INFERCACHE_NAMESPACE, INFERCACHE_TOKEN_FILE,\n"
    "INFERCACHE_TLS_CA, INFERCACHE_TLS_CERT, INFERCACHE_TLS_KEY; options win over them.\n"
    "\n";

}  // namespace

void BuildProgram(CommandLine& line, GlobalOptions& options, const std::string& version) {
  CLI::App& app = line.app;
  app.name("infercachectl");
  app.description(kDescription);
  // Options of the program may follow the command; subcommands inherit this.
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", absl::StrCat("infercachectl ", version));
  app.footer(absl::StrCat(kNotes, kExitCodesHelp));
  app.get_formatter()->column_width(34);
  AddGlobalOptions(app, options);
  AddDaemonCommands(line);
  AddDoctorCommand(line, version);
  AddObjectCommands(line);
  AddKeyCommands(line);
  AddNamespaceCommands(line);
  AddReplayCommand(line);
  AddBenchCommand(line);
  AddSimulateCommand(line);
}

}  // namespace infercache::cli
