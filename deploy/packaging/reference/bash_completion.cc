#include "deploy/packaging/reference/bash_completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <string_view>

namespace infercache::reference {
namespace {

// bash splits words at "=", so --flag=value arrives as three words.
constexpr std::string_view kFunctions = R"(
_@() {
  local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]}
  local index path='' words='' options='' files='' values=''
  COMPREPLY=()
  if [[ $current == = ]]; then
    current='' option+='='
  elif [[ $option == = ]]; then
    option=${COMP_WORDS[COMP_CWORD - 2]}=
  fi
  for ((index = 1; index < COMP_CWORD; index++)); do
    if [[ ${COMP_WORDS[index + 1]} == = ]]; then
      ((index += 2))
    elif _@_values "$path" "${COMP_WORDS[index]}"; then
      ((index++))
    else
      _@_words "$path"
      [[ " $words " != *" ${COMP_WORDS[index]} "* ]] || path+="${path:+ }${COMP_WORDS[index]}"
    fi
  done
  if _@_values "$path" "$option"; then
    words=$values
  else
    files=''
    _@_words "$path"
    if [[ $current == -* || -z $words$files ]]; then words=$options files=''; fi
  fi
  mapfile -t COMPREPLY < <(
    [[ -z $words ]] || compgen -W "$words" -- "$current"
    [[ -z $files ]] || compgen -f -- "$current"
  )
  [[ -z $files ]] || compopt -o filenames 2>/dev/null
}
complete -F _@ @
)";

std::string Replaced(std::string_view text, std::string_view name) {
  std::string out;
  for (const char c : text) {
    if (c == '@') {
      out += name;
    } else {
      out += c;
    }
  }
  return out;
}

using Visitor = std::function<void(const Command& command, const std::string& path)>;

void Visit(const Command& command, const std::string& path, const Visitor& visit) {
  visit(command, path);
  for (const Command& child : command.commands) {
    Visit(child, path.empty() ? child.name : path + " " + child.name, visit);
  }
}

std::vector<std::string> OptionNames(const Command& command) {
  std::vector<std::string> names;
  for (const Group& group : command.options) {
    for (const Entry& option : group.entries) {
      for (const std::string& name : option.names) names.push_back(name);
    }
  }
  return names;
}

// Sets `words`, `options` and `files` to what may come in a command.
std::string WordsFunction(const Command& program) {
  const std::string global = fmt::format("{}", fmt::join(OptionNames(program), " "));
  std::string cases;
  Visit(program, "", [&](const Command& command, const std::string& path) {
    std::vector<std::string> words;
    for (const Command& child : command.commands) words.push_back(child.name);
    bool files = false;
    for (const Entry& argument : command.arguments) {
      for (std::string& word : Choices(argument.value)) words.push_back(std::move(word));
      files |= IsFile(argument.value);
    }
    std::vector<std::string> options = OptionNames(command);
    if (!path.empty()) options.push_back("$options");
    cases += fmt::format("    '{}') words='{}' files={} options=\"{}\" ;;\n", path,
                         fmt::join(words, " "), files ? "yes" : "''", fmt::join(options, " "));
  });
  return fmt::format(
      "_{}_words() {{ # COMMAND\n  options='{}'\n  case $1 in\n{}    *) words='' files='' ;;\n"
      "  esac\n}}\n",
      program.name, global, cases);
}

// Whether an option takes the next word; sets `values` or `files` to what that may be.
std::string ValuesFunction(const Command& program) {
  std::string cases;
  Visit(program, "", [&](const Command& command, const std::string& path) {
    for (const Group& group : command.options) {
      for (const Entry& option : group.entries) {
        if (option.value.empty()) continue;
        std::vector<std::string> patterns;
        for (const std::string& name : option.names) {
          // An option of the program comes after any command.
          const std::string pattern =
              path.empty() ? fmt::format("*' {}'", name) : fmt::format("'{} {}'", path, name);
          const std::string equals =
              path.empty() ? fmt::format("*' {}='", name) : fmt::format("'{} {}='", path, name);
          if (!option.value_may_be_left_out) patterns.push_back(pattern);
          patterns.push_back(equals);
        }
        cases +=
            fmt::format("    {}) values='{}' files={} ;;\n", fmt::join(patterns, " | "),
                        fmt::join(Choices(option.value), " "), IsFile(option.value) ? "yes" : "''");
      }
    }
  });
  return fmt::format(
      "_{}_values() {{ # COMMAND OPTION\n  case \"$1 $2\" in\n{}    *) return 1 ;;\n  esac\n}}\n",
      program.name, cases);
}

}  // namespace

std::string BashCompletion(const Command& program) {
  return fmt::format("# Completion of {0} in bash, generated from what {0} parses.\n{1}{2}{3}",
                     program.name, WordsFunction(program), ValuesFunction(program),
                     Replaced(kFunctions, program.name));
}

}  // namespace infercache::reference
