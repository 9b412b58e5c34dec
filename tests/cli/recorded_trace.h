// Traces that are no part of the repository.

#pragma once

#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

namespace infercache::cli {

// The file `name` in the directory that INFERCACHE_TRACE_DIR names; nothing if it is not there.
inline std::optional<std::string> FindRecordedTrace(const std::string& name) {
  const char* directory = std::getenv("INFERCACHE_TRACE_DIR");
  if (directory == nullptr || *directory == '\0') return std::nullopt;
  std::string path = std::string(directory) + "/" + name;
  if (access(path.c_str(), R_OK) != 0) return std::nullopt;
  return path;
}

}  // namespace infercache::cli
