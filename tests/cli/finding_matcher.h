// For tests of what the doctor finds.

#pragma once

#include <gmock/gmock.h>

#include <string>

#include "client/cli/doctor_finding.h"

namespace infercache::cli {

inline testing::Matcher<Finding> Is(const std::string& check, Level level,
                                    const std::string& found) {
  return testing::AllOf(testing::Field(&Finding::check, check),
                        testing::Field(&Finding::level, level),
                        testing::Field(&Finding::found, testing::HasSubstr(found)));
}

}  // namespace infercache::cli
