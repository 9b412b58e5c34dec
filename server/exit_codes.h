// What infercached tells its supervisor by its exit status.

#pragma once

namespace infercache::server {

enum ExitCode : int {
  kExitOk = 0,
  kExitRuntime = 1,       // it ran, and something broke
  kExitUsage = 2,         // the command line
  kExitUnavailable = 69,  // an address, port or socket is taken
  kExitOsError = 71,      // the system refused memory or a file
  kExitConfig = 78,       // configuration file, environment, or a value that makes no sense
  // A second signal ends the process with 128 + its number.
};

}  // namespace infercache::server
