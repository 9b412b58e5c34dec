// Generates the man page and the completion of infercachectl from its command line.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "client/cli/context.h"
#include "deploy/packaging/reference/generate.h"

namespace infercache::reference {
namespace {

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

Entry EntryOf(const CLI::Option& option) {
  const bool takes_value = option.get_items_expected_max() > 0;
  Entry entry = {.names = NamesOf(option),
                 .value = takes_value ? option.get_type_name() : "",
                 .help = option.get_description()};
  if (!option.get_envname().empty()) {
    entry.help +=
        (entry.help.ends_with('.') ? " " : ". ") + ("Environment: " + option.get_envname());
  }
  return entry;
}

// Of an argument CLI11's type is TEXT unless the command says what it takes; then its name tells.
Entry ArgumentOf(const CLI::Option& option) {
  const std::string name = option.get_name(true);
  const std::string type = option.get_type_name();
  return {.names = {name}, .value = type == "TEXT" ? name : type, .help = option.get_description()};
}

Command CommandOf(const CLI::App& app) {
  Command command = {.name = app.get_name(), .help = app.get_description(), .options = {{}}};
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) {
      command.arguments.push_back(ArgumentOf(*option));
      const std::string many = option->get_items_expected_max() > 1 ? "..." : "";
      const std::string usage = option->get_name(true) + many;
      command.usage +=
          (command.usage.empty() ? "" : " ") + (option->get_required() ? usage : "[" + usage + "]");
    } else if (option != app.get_help_ptr() || app.get_parent() == nullptr) {
      command.options.front().entries.push_back(EntryOf(*option));
    }
  }
  // Commands inherit their program's footer.
  const CLI::App* parent = app.get_parent();
  if (parent == nullptr || parent->get_footer() != app.get_footer()) {
    command.notes = app.get_footer();
  }
  for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
    command.commands.push_back(CommandOf(*child));
  }
  return command;
}

}  // namespace
}  // namespace infercache::reference

int main(int argc, char** argv) {
  using namespace infercache;
  CLI::App app;
  cli::CommandLine line{app, {}};
  cli::GlobalOptions options;
  cli::BuildProgram(line, options, INFERCACHE_VERSION);
  return reference::Generate(argc, argv, reference::CommandOf(app));
}
