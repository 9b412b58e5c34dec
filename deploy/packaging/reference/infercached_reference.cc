// Generates the man page and the completion of infercached from its option table.

#include <span>
#include <string>
#include <vector>

#include "deploy/packaging/reference/generate.h"
#include "server/config_print.h"
#include "server/options.h"
#include "server/text.h"

namespace infercache::reference {
namespace {

using server::Field;

std::vector<Group> OptionGroups() {
  std::vector<Group> groups = {{"General", {}}};
  for (const server::ProgramFlag& flag : server::ProgramFlags()) {
    Entry entry = {.value = std::string(flag.value), .help = std::string(flag.help)};
    server::ForEachPiece(flag.names, ',', [&entry](std::string_view name) {
      entry.names.emplace_back(server::Trim(name));
    });
    groups.back().entries.push_back(std::move(entry));
  }
  const server::Config defaults;
  for (const Field<server::Config>& field : server::ConfigFields()) {
    if (groups.back().title != field.group) groups.push_back({std::string(field.group), {}});
    const std::string value = server::ValueText(field, defaults);
    groups.back().entries.push_back(
        {.names = {server::FlagName(field.key)},
         .value = server::KindName(field.kind, field.choices),
         .value_may_be_left_out = field.kind == server::ValueKind::kBool,
         .help = server::Cat(field.help, " Default: ", value, ".")});
  }
  return groups;
}

template <typename T>
std::vector<Group> Keys(std::span<const Field<T>> fields) {
  Group group;
  for (const Field<T>& field : fields) {
    group.entries.push_back({.names = {std::string(field.key)},
                             .value = server::KindName(field.kind, field.choices),
                             .help = std::string(field.help)});
  }
  return {group};
}

}  // namespace
}  // namespace infercache::reference

int main(int argc, char** argv) {
  using namespace infercache;
  return reference::Generate(argc, argv,
                             {.name = "infercached", .options = reference::OptionGroups()},
                             {{"NAMESPACES", reference::Keys(server::NamespaceFields())},
                              {"CREDENTIALS", reference::Keys(server::CredentialFields())}});
}
