// GPUs as this process finds them: the driver, each GPU by its UUID, and whether another process
// gets at memory that this one exports.

#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/doctor_finding.h"
#include "infercache/v1/local.pb.h"

namespace infercache::cli {

struct Gpu {
  std::string uuid;
};

// Adds "gpu_driver", and for each GPU a "gpu" with what TestGpu found, which takes `patience` each
// at most. Returns the GPUs.
std::vector<Gpu> CheckGpus(absl::Duration patience, std::vector<Finding>* findings);
// What the daemon says to a Hello with `device`.
Finding GpuTierFinding(const std::string& device, const std::string& namespace_name,
                       const absl::StatusOr<v1::Welcome>& welcome);

}  // namespace infercache::cli
