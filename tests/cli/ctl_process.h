// Runs the real infercachectl and collects what it prints.

#pragma once

#include <string>
#include <vector>

namespace infercache::cli {

struct CtlResult {
  int exit_code = -1;  // -1: killed by a signal, or by RunCtl's own deadline
  std::string out, err;
};

// `environment` are NAME=VALUE entries on top of this process's, without its INFERCACHE_ variables.
CtlResult RunCtl(const std::vector<std::string>& arguments, const std::string& input = "",
                 const std::vector<std::string>& environment = {});

}  // namespace infercache::cli
