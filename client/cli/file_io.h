// Whole files and standard streams. "-" is standard input or standard output.

#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace infercache::cli {

// Errors of the system as absl::ErrnoToStatus has them, with the path in the message.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Creates the file or replaces what is in it.
absl::Status WriteFile(const std::string& path, std::span<const std::byte> bytes);

}  // namespace infercache::cli
