// How infercachectl ends, for scripts. The numbers never change meaning.

#pragma once

#include "absl/status/status.h"

namespace infercache::cli {

enum class ExitCode : int {
  kOk = 0,           // done; for reads: everything asked for was there
  kMiss = 1,         // the daemon answered, and something asked for was not there
  kUsage = 2,        // arguments, or what they name (a trace, a key), cannot be right
  kUnreachable = 3,  // nobody answered at the endpoint, or not within the deadline
  kFailed = 4,       // the daemon refused, a local file failed, or doctor found a failure
  kWrongBytes = 5,   // replay read other bytes than it had put
  kInterrupted = 130,
};

// REQUIRES: !status.ok(). UNAVAILABLE and DEADLINE_EXCEEDED are kUnreachable unless the daemon
// itself said so, INVALID_ARGUMENT is kUsage, the rest kFailed.
ExitCode ExitCodeOf(const absl::Status& status);

// For --help.
extern const char kExitCodesHelp[];

}  // namespace infercache::cli
