// One HTTP request for tests.

#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace infercache::e2e {

struct HttpAnswer {
  int status = 0;
  std::string head;  // status line and headers
  std::string body;
};

// `address`: "127.0.0.1:7401" or "[::1]:7401". UNAVAILABLE: no connection, or no answer within 10
// s.
absl::StatusOr<HttpAnswer> Http(const std::string& address, const std::string& method,
                                const std::string& path);

}  // namespace infercache::e2e
