// What the kernel lets this process do: the probes of `infercachectl doctor` that try it.

#pragma once

#include <vector>

#include "absl/status/status.h"
#include "client/cli/doctor_finding.h"

namespace infercache::cli {

// Makes a memory segment as the daemon makes the ones that others only read, and tries to get
// around its seals: by a writable mapping, by making a read-only one writable, by write(), by
// resizing. Thread-safe; leaves nothing behind.
absl::Status TrySealing();
// Backs a small segment with memory as the daemon does at its start.
absl::Status TryPopulate();

// What those mean. Separate so that tests can ask about kernels other than this one.
Finding SealingFinding(const absl::Status& tried);
Finding PopulateFinding(const absl::Status& tried);
Finding PageSizeFinding(long page_bytes);

// All of the above, tried.
std::vector<Finding> CheckKernel();

}  // namespace infercache::cli
