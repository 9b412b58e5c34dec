#include "deploy/packaging/reference/man_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>
#include <string_view>

namespace infercache::reference {
namespace {

// Text as roff prints it: characters that it reads as something else, and a control line's start.
std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '\'':
        out += "\\(aq";
        break;
      case '`':
        out += "\\(ga";
        break;
      case '^':
        out += "\\(ha";
        break;
      case '~':
        out += "\\(ti";
        break;
      default:
        out += c;
    }
  }
  if (out.starts_with('.')) out.insert(0, "\\&");
  return out;
}

// What the user types is bold, what stands for something else is in italics.
std::string Value(const std::string& value) {
  std::vector<std::string> words;
  for (const std::string& word : Choices(value)) {
    words.push_back(fmt::format("\\fB{}\\fR", Escaped(word)));
  }
  return words.empty() ? fmt::format("\\fI{}\\fR", Escaped(value))
                       : fmt::format("{}", fmt::join(words, "|"));
}

std::string Head(const Entry& entry) {
  std::vector<std::string> names;
  for (const std::string& name : entry.names) {
    // An argument is named as what stands for it.
    const bool argument = name.front() >= 'A' && name.front() <= 'Z';
    names.push_back(fmt::format("\\f{}{}\\fR", argument ? 'I' : 'B', Escaped(name)));
  }
  const std::string head = fmt::format("{}", fmt::join(names, ", "));
  if (entry.value.empty() || entry.value == entry.names.front()) return head;
  return fmt::format(fmt::runtime(entry.value_may_be_left_out ? "{}[={}]" : "{} {}"), head,
                     Value(entry.value));
}

std::string Entries(const std::vector<Entry>& entries) {
  std::string out;
  for (const Entry& entry : entries) {
    if (entry.help.empty()) continue;  // its name, in the usage, says it all
    out += fmt::format(".TP\n{}\n{}\n", Head(entry), Escaped(entry.help));
  }
  return out;
}

std::string Groups(const std::vector<Group>& groups) {
  std::string out;
  for (const Group& group : groups) {
    if (!group.title.empty()) out += fmt::format(".SS {}\n", Escaped(group.title));
    out += Entries(group.entries);
  }
  return out;
}

std::string Paragraph(const std::vector<std::string>& lines) {
  std::string out = ".PP\n";
  bool as_is = false;
  for (const std::string& line : lines) {
    if (!as_is && line.starts_with(' ')) {
      out += ".nf\n";
      as_is = true;
    }
    out += Escaped(line) + "\n";
  }
  if (as_is) out += ".fi\n";
  return out;
}

std::string Notes(const std::string& text) {
  std::string out;
  std::vector<std::string> paragraph;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) {
      paragraph.push_back(line);
    } else if (!paragraph.empty()) {
      out += Paragraph(paragraph);
      paragraph.clear();
    }
  }
  if (!paragraph.empty()) out += Paragraph(paragraph);
  return out;
}

// A command that only holds others is not listed itself.
std::string Commands(const std::vector<Command>& commands, const std::string& prefix) {
  std::string out;
  for (const Command& command : commands) {
    if (!command.commands.empty()) {
      out += Commands(command.commands, prefix + command.name + " ");
      continue;
    }
    out += fmt::format(".SS {}{} {}\n{}\n", Escaped(prefix), Escaped(command.name),
                       Escaped(command.usage), Escaped(command.help));
    out += Entries(command.arguments);
    out += Groups(command.options);
    out += Notes(command.notes);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::string> ManPage(const std::string& page_template, const Command& program,
                                    const std::string& version, const Lists& lists) {
  std::string out;
  std::istringstream in(page_template);
  for (std::string line; std::getline(in, line);) {
    const bool placeholder = line.size() > 2 && line.starts_with('@') && line.ends_with('@');
    const std::string name = placeholder ? line.substr(1, line.size() - 2) : "";
    if (!placeholder) {
      const size_t at = line.find("@VERSION@");
      if (at != std::string::npos) line.replace(at, std::string_view("@VERSION@").size(), version);
      out += line + "\n";
    } else if (name == "OPTIONS") {
      out += Groups(program.options);
    } else if (name == "COMMANDS") {
      out += Commands(program.commands, "");
    } else if (name == "NOTES") {
      out += Notes(program.notes);
    } else if (const auto list = lists.find(name); list != lists.end()) {
      out += Groups(list->second);
    } else {
      return absl::NotFoundError("nothing is generated for " + line);
    }
  }
  return out;
}

}  // namespace infercache::reference
