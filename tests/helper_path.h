// Where a program is that a test starts.

#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

namespace infercache {

// `built`, where the build has it; or in a bundle, which has moved, beside the others
// (tests/run_gpu.sh).
inline std::string HelperPath(std::string_view built) {
  const char* const directory = std::getenv("INFERCACHE_TEST_PROGRAMS");
  if (directory == nullptr) return std::string(built);
  return std::string(directory) + std::string(built.substr(built.rfind('/')));
}

}  // namespace infercache
