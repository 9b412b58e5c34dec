// A measurement that cannot be taken has no number: the program says why and ends.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace infercache::bench {

[[noreturn]] inline void Die(const std::string& why) {
  std::fprintf(stderr, "bench: %s\n", why.c_str());
  std::exit(2);
}

}  // namespace infercache::bench
