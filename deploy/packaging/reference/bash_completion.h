// A completion function for bash, which needs nothing but bash.

#pragma once

#include <string>

#include "deploy/packaging/reference/program.h"

namespace infercache::reference {

// Completes commands, options, values that are one of some words, and file names. Options of the
// program are offered after every command too.
std::string BashCompletion(const Command& program);

}  // namespace infercache::reference
