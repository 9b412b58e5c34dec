// The one option of a test program that can run for longer than it does in the suite.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <string_view>

namespace infercache::chaos {

// What stands behind `prefix` ("--rounds=") on the command line, or `value` if it is not there.
// Takes GoogleTest's own options first; the program ends with status 2 at anything else.
inline int NumberOption(int argc, char** argv, std::string_view prefix, int value) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const std::string_view digits = argument.substr(std::min(prefix.size(), argument.size()));
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (!argument.starts_with(prefix) || error != std::errc() || *end != '\0' || value <= 0) {
      std::cerr << "bad argument '" << argument << "'; there is " << prefix << "N" << std::endl;
      std::exit(2);
    }
  }
  return value;
}

}  // namespace infercache::chaos
