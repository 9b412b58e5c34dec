// Which process of a line of forks this is: what a parent made is not usable in its child, whose
// Python objects are copies of the parent's.

#pragma once

#include <cstdint>

namespace infercache::python {

// Must run before the first fork that counts: when the module is loaded. RuntimeError if the
// process cannot be told of its forks.
void WatchForks();

// Grows with every fork, in the child. Two loads that differ lie on two sides of one.
uint64_t ForkEpoch();

}  // namespace infercache::python
