// main() of a generator: its command line, and files.

#pragma once

#include <string>

#include "deploy/packaging/reference/man_page.h"
#include "deploy/packaging/reference/program.h"

namespace infercache::reference {

// GENERATOR man TEMPLATE OUTPUT | GENERATOR bash OUTPUT. Returns main()'s exit status.
int Generate(int argc, char** argv, const Command& program, const Lists& lists = {});

}  // namespace infercache::reference
