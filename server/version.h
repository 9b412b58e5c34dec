// Which build this is.

#pragma once

#include <string>
#include <string_view>

namespace infercache::server {

std::string_view Version();   // "0.1.0"
std::string_view Revision();  // of git, "-dirty" with local changes; "unknown" outside a clone
std::string_view Compiler();  // "GNU 12.2.0"
std::string_view BuildType();

}  // namespace infercache::server
