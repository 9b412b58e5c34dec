// What a man page and a shell completion have to know about a program. The tools that generate them
// fill it from what the program itself parses with, so neither can tell of an option that is not
// there.

#pragma once

#include <string>
#include <vector>

namespace infercache::reference {

// An option, an argument, or a key of the configuration file.
struct Entry {
  std::vector<std::string> names = {};  // "-o", "--output"; of an argument or key: its one name
  std::string value = {};               // "SIZE"; "a|b" = one of these; empty = takes none
  bool value_may_be_left_out = false;   // --flag, or --flag=VALUE
  std::string help = {};
};

struct Group {
  std::string title = {};  // may be empty
  std::vector<Entry> entries = {};
};

struct Command {
  std::string name = {};
  std::string help = {};
  std::vector<Group> options = {};
  std::vector<Entry> arguments = {};
  std::string usage = {};  // "[OPTIONS] KEY [FILE]"
  std::string notes = {};  // text: paragraphs, and indented lines that stay as they are
  std::vector<Command> commands = {};
};

// The words of "a|b"; none if `value` is a placeholder such as "SIZE".
std::vector<std::string> Choices(const std::string& value);
// Whether a file name is meant.
bool IsFile(const std::string& value);

}  // namespace infercache::reference
