// A program that a case starts. It ends with the thread that starts it.

#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace infercache::bench {

// Runs `words`, the first of which is its path. Its standard input and output are these
// descriptors; -1 = this program's.
pid_t Spawn(const std::vector<std::string>& words, int input = -1, int output = -1);

}  // namespace infercache::bench
