// What the option table looks like to people: --help, the commented YAML
// file and the reference page.

#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/config.h"

namespace infercache::server {

// A YAML file that gives `config` when it is read, with each option's sentence above it. Secrets
// are replaced by "<redacted>", which the reader refuses.
std::string PrintConfig(const Config& config);

// The flags that are no options: they have no key, and stand in no file.
struct ProgramFlag {
  std::string_view names;  // "-h, --help"
  std::string_view value;  // "FILE"; empty = takes none
  std::string_view help;
};
std::span<const ProgramFlag> ProgramFlags();

// What --help prints.
std::string HelpText();

// The configuration chapter of docs/operations.md, in Markdown.
std::string ConfigReference();

}  // namespace infercache::server
