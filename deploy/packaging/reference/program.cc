#include "deploy/packaging/reference/program.h"

#include <algorithm>
#include <sstream>

namespace infercache::reference {

std::vector<std::string> Choices(const std::string& value) {
  // Placeholders are in capitals.
  const bool lower = std::all_of(value.begin(), value.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || c == '-' || c == '|';
  });
  std::vector<std::string> words;
  if (!lower) return words;
  std::istringstream in(value);
  for (std::string word; std::getline(in, word, '|');) words.push_back(word);
  return words;
}

bool IsFile(const std::string& value) { return value == "FILE" || value == "PATH"; }

}  // namespace infercache::reference
