// How failures of the client become Python's: what can never work raises, everything else is a
// miss or a refused put that says why.

#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "absl/status/status.h"

namespace infercache::python {

// infercache.ClosedError, ForkedError, and DaemonError and DeviceError with `code` and `reason`.
[[noreturn]] void ThrowClosed(const char* what);
[[noreturn]] void ThrowForked(const char* what);
[[noreturn]] void ThrowDaemonError(const absl::Status& status);
[[noreturn]] void ThrowDeviceError(const absl::Status& status);

// "UNAVAILABLE", "DEADLINE_EXCEEDED", ...
std::string CodeName(const absl::Status& status);

// ValueError for INVALID_ARGUMENT and OUT_OF_RANGE: the caller's mistake, whatever the daemon does.
void ThrowIfCallersMistake(const absl::Status& status);

}  // namespace infercache::python
