// Reads the YAML file. What it may hold is the option table (options.h): dotted keys are nested
// maps.

#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config.h"

namespace infercache::server {

inline constexpr size_t kMaxConfigFileBytes = 1 << 20;

// Where values came from, by key: "infercached.yaml:12", "INFERCACHE_CAPACITY", "--capacity". A key
// that is absent has its default.
using Origins = std::map<std::string, std::string, std::less<>>;

// Applies YAML text to `config`. INVALID_ARGUMENT lists every error, one a line, as
// "NAME:LINE: KEY: what is wrong": syntax, unknown key (with the nearest one), duplicate key, wrong
// type, value out of bounds. After an error `config` is half applied.
absl::Status ApplyYaml(std::string_view text, std::string_view name, Config& config,
                       Origins& origins);

// A file's content. NOT_FOUND, PERMISSION_DENIED, ... with the path; INVALID_ARGUMENT if it is
// longer than kMaxConfigFileBytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

}  // namespace infercache::server
