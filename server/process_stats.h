// What the kernel says about this process, for the process_* metrics.

#pragma once

#include <cstdint>

namespace infercache::server {

struct ProcessStats {
  double cpu_seconds = 0;
  uint64_t resident_bytes = 0;
  uint64_t virtual_bytes = 0;
  uint64_t open_fds = 0;
  uint64_t max_fds = 0;
  uint64_t threads = 0;
  double start_time_seconds = 0;  // since 1970
};

// Thread-safe. What cannot be read is 0.
ProcessStats ReadProcessStats();

}  // namespace infercache::server
