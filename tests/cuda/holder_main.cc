// Holds a mapped chunk of the first GPU, says so with one byte on its standard output, and waits to
// be killed.

#include <unistd.h>

#include "common/cuda/driver.h"
#include "common/cuda/memory.h"

int main() {
  using namespace infercache::cuda;
  const auto driver = Driver::Load();
  if (!driver.ok()) return 1;
  const auto allocation = Allocation::Create(*driver, 0, uint64_t{2} << 20);
  if (!allocation.ok()) return 2;
  const auto mapping = Mapping::Map(*allocation, 0, Mapping::Access::kReadWrite);
  if (!mapping.ok() || write(STDOUT_FILENO, "x", 1) != 1) return 3;
  while (true) pause();
}
